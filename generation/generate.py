"""Make a zoo: train those of its models that are not there yet and write each when it is complete.

Models that are equal in activation, optimizer, and dropout or not, can be trained side by side.
They fill blocks, and a block is trained from its first to its last epoch by one worker. Under
`torchrun` or `accelerate launch` each rank takes its share of the models and waits for the others
at the very end only. A killed run loses the blocks it was training and nothing else: the same
command goes on from there, with any number of threads or ranks. A ResNet-18 is a block of its own,
which goes on from its last epoch (trajectory.py).
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..builders.hub.incremental import (
    STAGING_BYTES,
    PushSummary,
    check_push,
    prepare_push,
    push_models,
)
from ..builders.ledger import Published
from ..builders.specification import Model, Zoo
from ..builders.zoo_directory import ZooDirectory, open_zoo
from ..errors import Cancelled, PublishingWarning, ZooNotFound
from .engines import resnet
from .engines.registry import _TRAINERS, check_training, choose_engine
from .engines.resnet_run import remove_checkpoint
from .images import ImageData
from .job import Job, Progress, Summary, _Work, begin, group_models
from .plan import Plan, check_space, make_plan, measure_epoch, model_bytes
from .ranks import _join_ranks, _join_summaries, _rank_count

SHARE = 16
"""Models that a rank takes at a time: a full block of the widest lanes."""


PUSH_SECONDS = 60.0
"""Between two looks for models to publish: the Hub limits commits to some hundred an hour."""


def generate(
    zoo: Zoo,
    root: str | os.PathLike[str],
    images: ImageData,
    *,
    models: int | None = None,
    engine: str = "auto",
    threads: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    keep_epochs: Sequence[int] | None = None,
    push: str | None = None,
    free: bool = False,
    private: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Train a zoo, or the first `models` of it, into `<root>/<zoo>/`.

    Args:
        zoo: specification; see catalog.get_zoo, or zoo_from_json for your own.
        root: folder of all zoos.
        images: that `zoo.images` names (images.load_images).
        models: how many; None for all. The first n are spread over the grid.
        engine: one of `ENGINES`, or "auto": that of a zoo that has been begun, else batched on a
            GPU, else lanes, else (with a warning) batched.
        threads: cores to use; None for all that this rank may use.
        device: "cpu" or "cuda" for the batched engine and ResNet-18; None for CUDA where there is
            one.
        precision: "fp32" or "bf16" for ResNet-18; None: that of a zoo that has been begun, else
            bf16 on a GPU and fp32 on a CPU.
        compile: train ResNet-18 with torch.compile.
        keep_epochs: of ResNet-18, the epochs to write; None: those of a zoo that has been begun,
            else all. Nothing is trained after the last of them.
        push: of ResNet-18, a repository on the Hub, ORG/NAME, to which each model is published
            when it is finished, while others train (pushing.py).
        free: remove the files of published models here.
        private: a repository that is made is private.
        on_progress: called about five times a second.

    Raises:
        ValueError: the images do not fit the zoo, or an unknown engine or device.
        HubFailed: the repository may not be written, or was out of reach at the end.
        RuntimeError: another process publishes this zoo.
        FaultyZoo: the folder holds a zoo of this name that was made otherwise.
        LanesUnavailable: lanes were asked for and cannot run here.
        TrainingFailed: a worker was killed or could not write.
        NotEnoughSpace: the models that are missing do not fit on the disk.
    """
    specifications = check_request(
        zoo, models, engine, threads, device, precision, compile, keep_epochs, push, free
    )
    check_images(zoo, images)
    engine, device = choose_engine(zoo, root, engine, device)
    options = _options(zoo, root, device, precision, compile, keep_epochs)
    if options:  # images of the same digest, seen otherwise
        options["augmentation"] = list(images.augmentation)
    directory = begin(root, zoo, engine, images, **options)
    shares = share_models(zoo, specifications, _rank_count())
    ranks, begun = _join_ranks(device), PushSummary(0, 0, 0, {})
    if ranks.index == 0:  # for all of them
        if push is not None:
            prepare_push(directory, push, private=private)
        directory.add_splits(model.model_id for model in specifications)
        if push is not None and free:  # what is to be removed makes room
            begun = push_models(directory, push, free=True)
        check_space(directory, shares, pushing=push is not None, freeing=free)
    ranks.wait()
    # Each rank trains one model, and publishing takes a file: so much is never asked for twice.
    room = sum(map(bool, shares)) * model_bytes(directory) + STAGING_BYTES if free else 0
    job = Job(directory, images)
    if push is None or ranks.index > 0:
        return run(job, specifications, engine, threads, device, on_progress, room)
    with _publishing(directory, push, free, begun) as pushed:

        def show(progress: Progress) -> None:
            if on_progress is not None:
                on_progress(dataclasses.replace(progress, published=pushed["published"]))

        summary = run(job, specifications, engine, threads, device, show, room)
    return dataclasses.replace(summary, **pushed)


@contextmanager
def _publishing(
    directory: ZooDirectory, repo_id: str, free: bool, begun: PushSummary
) -> Iterator[dict[str, Any]]:
    """Publish finished models now and then while something else is done, and all others after it.

    Args:
        directory, repo_id, free: of `push_models`.
        begun: what has been published in this run before.

    Yields:
        `published`, `freed` and `left_out` of a Summary, which grow meanwhile.

    Raises:
        HubFailed, ValueError, RuntimeError: of `push_models`, at the end; meanwhile they are
            warnings, and it is tried again.
    """
    counts: dict[str, Any] = {"published": 0, "freed": 0, "left_out": {}}
    ended, cancelled = threading.Event(), threading.Event()

    def publish() -> None:
        push_models(directory, repo_id, free=free, cancelled=cancelled, on_published=add)

    def add(done: PushSummary) -> None:
        counts["published"] += done.models
        counts["freed"] += done.freed
        for model, reason in done.left_out.items():
            counts["left_out"][model] = f"not published: {reason}"

    add(begun)

    def now_and_then() -> None:
        failures = 0
        while not ended.wait(PUSH_SECONDS):
            try:
                publish()
            except Cancelled:
                return
            except Exception as error:  # training goes on, whatever it is
                if type(error) is not ValueError:
                    failures += 1
                    warnings.warn(
                        f"not published now, tried again in a minute ({failures}): {error}",
                        PublishingWarning,
                        stacklevel=1,
                    )
                    continue
                # A refusal of ours, the same in a minute; not a kind of ValueError that a library
                # raises, such as for an answer that broke off.
                published = directory.published()
                directory.write_published(dataclasses.replace(published, stopped=str(error)))
                warnings.warn(
                    f"nothing more is published, training goes on: {error}",
                    PublishingWarning,
                    stacklevel=1,
                )
                return

    thread = threading.Thread(target=now_and_then, name="publish")
    thread.start()
    try:
        yield counts
    except BaseException:
        cancelled.set()
        raise
    finally:
        ended.set()
        try:
            thread.join()
        except KeyboardInterrupt:
            cancelled.set()
            raise
    publish()


def plan(
    zoo: Zoo,
    root: str | os.PathLike[str],
    *,
    models: int | None = None,
    engine: str = "auto",
    threads: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    keep_epochs: Sequence[int] | None = None,
    push: str | None = None,
    free: bool = False,
    ranks: int | None = None,
    seconds_per_epoch: float | None = None,
    measure: bool = False,
) -> Plan:
    """What `generate` with the same arguments would do; neither images nor a folder are needed.

    Args:
        ranks: processes that will share the work; None: those that this run has.
        seconds_per_epoch: of one model on one rank, if known.
        measure: if it is not known, measure it here in some seconds (ResNet-18 alone).

    Raises:
        ValueError: as `generate`.
    """
    specifications = check_request(
        zoo, models, engine, threads, device, precision, compile, keep_epochs, push, free
    )
    ranks = _rank_count() if ranks is None else ranks
    if ranks < 1:
        raise ValueError(f"the number of ranks must be at least 1, found {ranks}")
    if seconds_per_epoch is not None and not 0 < seconds_per_epoch < float("inf"):
        raise ValueError(f"seconds per epoch must be a number above 0, found {seconds_per_epoch}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = _options(zoo, root, device, precision, compile, keep_epochs)
    source = "stated"
    if seconds_per_epoch is None and measure and options:
        source = "measured"
        seconds_per_epoch = measure_epoch(
            zoo,
            device=device,
            precision=options["precision"],
            compile=options["compile"],
            threads=threads,
        )
    directory = ZooDirectory(Path(root) / zoo.name, zoo, options)
    return make_plan(
        directory,
        share_models(zoo, specifications, ranks),
        seconds_per_epoch,
        source,
        pushing=push is not None,
        freeing=free,
    )


def run(
    job: Job,
    models: Sequence[Model],
    engine: str,
    threads: int | None,
    device: str,
    on_progress: Callable[[Progress], None] | None = None,
    room: int = 0,
) -> Summary:
    """Train those of some models that are not there yet, this rank its share of them.

    Args:
        job: says how; its directory knows the models' splits.
        models: all models of the run, the same on every rank.
        engine, threads, device, on_progress: as in `generate`, chosen.
        room: bytes of disk that must be free before a ResNet-18 is begun.

    Raises:
        TrainingFailed: a worker was killed or could not write.
    """
    ranks, zoo = _join_ranks(device), job.directory.zoo
    if device == "cuda":  # this rank's: other threads have a current device of their own
        device = f"cuda:{torch.cuda.current_device()}"
    # Shares are cut from all models, not from the missing ones, which ranks may see differently.
    own = share_models(zoo, models, ranks.count)[ranks.index]
    missing = [model for model in own if not job.directory.finished(model.model_id)]
    if engine == "resnet":  # killed between a model's last state and this
        for model in set(own).difference(missing):
            remove_checkpoint(job.directory, model)
    start = time.monotonic()
    work = _Work(job, threads or ranks.cores(), device, on_progress, room)
    outcomes = list(_TRAINERS[engine](work, missing))
    seconds = time.monotonic() - start
    sparsities = [o.sparsity for o in outcomes if o.sparsity is not None]
    summary = Summary(
        zoo=zoo.name,
        path=str(job.directory.path),
        engine=engine,
        ranks=1,
        models=len(outcomes),
        present=len(own) - len(missing),
        states=sum(outcome.states for outcome in outcomes),
        diverged=sum(outcome.diverged for outcome in outcomes),
        test_acc=float(np.mean([o.test_acc for o in outcomes])) if outcomes else None,
        seconds=seconds,
        samples_per_second=sum(o.epochs for o in outcomes) * len(job.images.train) / seconds,
        sparsity=float(np.mean(sparsities)) if sparsities else None,
    )
    return _join_summaries(ranks.gather(summary))


def check_request(
    zoo: Zoo,
    models: int | None,
    engine: str,
    threads: int | None,
    device: str | None,
    precision: str | None = None,
    compile: bool = False,
    keep_epochs: Sequence[int] | None = None,
    push: str | None = None,
    free: bool = False,
) -> list[Model]:
    """The models that `generate` would train with these arguments, which need no images.

    Raises:
        ValueError: as `generate`.
    """
    check_training(zoo, engine, threads, device)
    if zoo.layout.architecture.file_per_state:
        resnet.check_zoo(zoo, precision)
    elif precision is not None or compile or keep_epochs is not None:
        raise ValueError(f"{zoo.name}: precision, compile and keep-epochs are for ResNet-18 alone")
    if free and push is None:
        raise ValueError(
            "--free removes models that were published: add --push ORG/NAME, a repository on the "
            "Hub"
        )
    if push is not None:
        check_push(zoo, push, Published("", {}))
    if keep_epochs is not None and not (
        all(1 <= epoch <= zoo.epochs for epoch in keep_epochs)
        and list(keep_epochs) == sorted(set(keep_epochs))
        and keep_epochs
    ):
        raise ValueError(
            f"epochs to keep are increasing numbers from 1 to {zoo.epochs}, "
            f"found {', '.join(map(str, keep_epochs)) or 'none'}"
        )
    return zoo.models(models)


def share_models(zoo: Zoo, models: Sequence[Model], ranks: int) -> list[list[Model]]:
    """The models of each rank: full blocks in turn, of ResNet-18 single models."""
    groups = group_models(models, 1 if zoo.layout.architecture.file_per_state else SHARE)
    return [[model for group in groups[rank::ranks] for model in group] for rank in range(ranks)]


def check_images(zoo: Zoo, images: ImageData) -> None:
    """Whether models of a zoo can see these images.

    Raises:
        ValueError: they have another shape or number of classes, or are too small.
    """
    found = tuple(images.train.pixels.shape[1:])
    size = zoo.layout.architecture.image_size
    expected = (zoo.channels, *((size, size) if size else found[1:]))
    if zoo.layout.architecture.file_per_state:
        resnet.check_images(images)
    if found != expected or images.classes != zoo.classes:
        raise ValueError(
            f"{zoo.name} needs images of shape {expected} in {zoo.classes} classes; "
            f"{images.name} has {found} in {images.classes}"
        )


def _options(
    zoo: Zoo,
    root: str | os.PathLike[str],
    device: str,
    precision: str | None,
    compile: bool,
    keep_epochs: Sequence[int] | None,
) -> dict[str, Any]:
    """What zoo.json says of a ResNet zoo besides: as asked for, as begun, or by default."""
    if not zoo.layout.architecture.file_per_state:
        return {}
    try:
        begun = open_zoo(root, zoo.name).info
    except ZooNotFound:
        begun = {}
    default = "bf16" if device == "cuda" else "fp32"
    keep = keep_epochs if keep_epochs is not None else begun.get("keep_epochs")
    if keep is not None and list(keep) == list(range(1, zoo.epochs + 1)):
        keep = None
    return {
        "precision": precision or begun.get("precision") or default,
        "compile": compile or begun.get("compile", False),
        "keep_epochs": list(keep) if keep is not None else None,
    }


# --- Ranks ----------------------------------------------------------------------------------------


# --- Workers --------------------------------------------------------------------------------------


# The reference engine trains one model at a time, so its workers are processes.
