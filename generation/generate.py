"""Make a zoo: train its missing models, and write each when it is complete.

Under `torchrun` or `accelerate launch`, each rank trains its share of the models and waits for the
others only at the very end. An interrupted run loses only the blocks of models that it was training
(engines/epoch_loop.py): the same call resumes, with any number of threads or ranks. Models with one
file per state (ResNet-18) resume after their last whole epoch (engines/checkpointed.py).
"""

from __future__ import annotations

import dataclasses
import os
import platform
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..builders.machine import cores
from ..builders.names import refuse_twin_name
from ..builders.ranks import launched_rank
from ..builders.specification import Model, Zoo
from ..builders.zoo_directory import ZooDirectory, check_zoo_directory, create_zoo
from ..errors import AlreadyRunningWarning, InvalidArgument
from .engines import ENGINES, Engine, choose_engine, reference, resnet
from .engines.checkpointed import remove_checkpoint
from .images import IMAGE_SOURCES, ImageData
from .images.folder import PREFIX, SETTINGS
from .job import Job, Progress, Summary, Work
from .measuring import measure_epoch, measure_population
from .networks import init_numbers
from .options import TrainOptions, check_count
from .plan import Plan, check_space, make_plan, model_bytes
from .ranks import join_ranks, join_summaries, share_models


class Publisher(Protocol):
    """Publishes finished models while others train (builders/hub/publisher.py does it to the Hub).

    Attributes:
        free: whether the files of a published model are deleted here.
        staging_bytes: disk space that publishing needs.
    """

    @property
    def free(self) -> bool: ...

    @property
    def staging_bytes(self) -> int: ...

    def check(self, zoo: Zoo) -> None:
        """Refuse a zoo that can never be published, without a request to the Hub."""

    def prepare(self, directory: ZooDirectory) -> None:
        """Check that publishing will be possible, and record the models published already."""

    def make_room(self, directory: ZooDirectory) -> None:
        """Publish finished models, and delete them here, before anything is trained."""

    def while_training(self, directory: ZooDirectory) -> AbstractContextManager[Mapping[str, Any]]:
        """Publish finished models at intervals within the context, and the rest at its end.

        The context's value holds the fields `published`, `freed` and `left_out` of a `Summary`.
        """

    def wait_for_room(self, directory: ZooDirectory, room: int, stop: threading.Event) -> None:
        """Wait until `room` bytes of disk are free, or no model is left that could be deleted."""


def generate(
    zoo: Zoo,
    root: str | os.PathLike[str],
    images: ImageData,
    *,
    models: int | None = None,
    options: TrainOptions = TrainOptions(),  # noqa: B008  # frozen
    publisher: Publisher | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Train a zoo, or the first `models` of it, into `<root>/<zoo>/`.

    Args:
        zoo: specification; see catalog.zoo_spec, or Zoo.from_json for your own.
        root: folder of all zoos.
        images: the images that `zoo.images` names (images.load_images).
        models: number of models to train; None for all. The first n are spread over the grid.
        options: engine, threads, device and so on.
        publisher: publishes finished models with one file per state (ResNet-18) while others
            train; None to publish none.
        on_progress: called about five times a second.

    Raises:
        InvalidArgument: the images or the options do not fit the zoo.
        HubFailed: the repository may not be written to, or was out of reach at the end.
        AlreadyRunning: another process publishes this zoo.
        FaultyZoo: the folder holds a zoo of this name that was made in another way.
        LanesUnavailable, CudaUnavailable: the engine lanes or cuda cannot run here, and was asked
            for or has begun the zoo.
        TrainingFailed: a worker was killed or could not write.
        NotEnoughSpace: the missing models do not fit on the disk.
    """
    specifications, provenance = check_generate(zoo, root, models, options, publisher)
    check_images(zoo, images)
    engine, device = choose_engine(zoo, root, options, _activations(zoo, specifications))
    if provenance:  # images with the same digest can have another augmentation
        provenance["augmentation"] = list(images.augmentation)
    shares = share_models(zoo, specifications, launched_rank().count)
    if publisher is None:  # checked before the folder is made
        check_space(ZooDirectory(Path(root).expanduser() / zoo.name, zoo, provenance), shares)
    directory = begin(root, zoo, engine, images, **provenance)
    ranks, work = join_ranks(device), Work(Job(directory, images), 0, device, on_progress)
    if ranks.index == 0:  # on behalf of all ranks
        if publisher is not None:
            publisher.prepare(directory)
        directory.add_splits(model.model_id for model in specifications)
        if publisher is not None:
            if publisher.free:
                publisher.make_room(directory)
            check_space(directory, shares, staging=publisher.staging_bytes, freeing=publisher.free)
    ranks.wait()
    if publisher is not None and publisher.free:
        # Reserve one model for each active rank and one Parquet file, so that two ranks never wait
        # for the same space.
        room = sum(map(bool, shares)) * model_bytes(directory) + publisher.staging_bytes
        wait = partial(publisher.wait_for_room, directory, room)
        work = dataclasses.replace(work, wait_for_room=wait)
    publishing: AbstractContextManager[Mapping[str, Any]] = nullcontext({})
    if publisher is not None and ranks.index == 0:
        publishing = publisher.while_training(directory)
    with publishing as published:
        if published and on_progress is not None:

            def show(progress: Progress) -> None:
                on_progress(dataclasses.replace(progress, published=published["published"]))

            work = dataclasses.replace(work, on_progress=show)
        summary = run(work, specifications, engine, options)
    return dataclasses.replace(summary, **published)


def plan(
    zoo: Zoo,
    root: str | os.PathLike[str],
    *,
    models: int | None = None,
    options: TrainOptions = TrainOptions(),  # noqa: B008  # frozen
    publisher: Publisher | None = None,
    ranks: int | None = None,
    seconds_per_epoch: float | None = None,
    measure: bool = False,
    images: ImageData | None = None,
) -> Plan:
    """Return the plan of `generate` with the same arguments. Needs neither images nor a folder.

    Args:
        ranks: number of processes that will share the work; None for those of this run.
        seconds_per_epoch: time of one model on one rank, if known.
        measure: whether to measure an unknown time here in some seconds, on random images.
        images: the zoo's images, for their shape and number; not needed for those of the catalog.

    Raises:
        InvalidArgument, FaultyZoo: see `generate`; also a number out of range.
    """
    specifications, provenance = check_generate(zoo, root, models, options, publisher)
    ranks = launched_rank().count if ranks is None else ranks
    if ranks < 1:
        raise InvalidArgument(f"the number of ranks must be at least 1, found {ranks}")
    if seconds_per_epoch is not None and not 0 < seconds_per_epoch < float("inf"):
        raise InvalidArgument(
            f"seconds per epoch must be a number above 0, found {seconds_per_epoch}"
        )
    directory = ZooDirectory(Path(root).expanduser() / zoo.name, zoo, provenance)
    shares = share_models(zoo, specifications, ranks)
    source, like = "stated", None
    if measure and seconds_per_epoch is None and make_plan(directory, shares).missing:
        like = images or IMAGE_SOURCES.get(zoo.images)
    if like is not None and provenance:
        source = "measured"
        seconds_per_epoch = measure_epoch(
            zoo,
            like,
            device=options.chosen_device,
            precision=provenance["precision"],
            compile=provenance["compile"],
            threads=options.threads,
        )
    if like is not None and not provenance:
        source = "measured"
        engine, device = choose_engine(zoo, root, options, _activations(zoo, specifications))
        seconds_per_epoch = measure_population(
            zoo, like, shares[0], engine, device, options.threads or cores()
        )
    return make_plan(
        directory,
        shares,
        seconds_per_epoch,
        source,
        staging=publisher.staging_bytes if publisher else 0,
        freeing=publisher is not None and publisher.free,
    )


def begin(
    root: str | os.PathLike[str], zoo: Zoo, engine: Engine, images: ImageData, **provenance: object
) -> ZooDirectory:
    """Open the directory of a zoo for training by an engine on these images; create it if missing.

    Raises:
        FaultyZoo: the folder holds a zoo of this name that was made in another way.
    """
    return create_zoo(
        root,
        zoo,
        engine=engine.name,
        stream=engine.stream,
        images=images.provenance(),
        **provenance,
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "cpu": reference.cpu_kind(),
        },
    )


def run(work: Work, models: Sequence[Model], engine: Engine, options: TrainOptions) -> Summary:
    """Train this rank's share of the models that are not finished.

    Args:
        work: what is trained and where; its directory knows the models' splits. Threads and the
            number of the CUDA device are chosen here.
        models: all models of the run, the same on every rank.
        engine: the engine that trains them.
        options: the number of threads is taken from them.

    Raises:
        TrainingFailed: a worker was killed or could not write.
    """
    directory, ranks = work.job.directory, join_ranks(work.device)
    device = work.device
    if device == "cuda":  # this rank's device, since other threads have their own current one
        device = f"cuda:{torch.cuda.current_device()}"
    work = dataclasses.replace(work, device=device, threads=options.threads or ranks.cores())
    # Shares are cut from all models: ranks may see different models as missing.
    own = share_models(directory.zoo, models, ranks.count)[ranks.index]
    missing = [model for model in own if not directory.finished(model.model_id)]
    if directory.zoo.layout.architecture.file_per_state:
        for model in set(own).difference(missing):  # a run was killed before it removed these
            remove_checkpoint(directory, model)
    start = time.monotonic()
    with _announced(directory) if missing and ranks.index == 0 else nullcontext():
        outcomes = list(engine.train(work, missing))
    seconds = time.monotonic() - start
    sparsities = [o.sparsity for o in outcomes if o.sparsity is not None]
    trained = sum(outcome.epochs for outcome in outcomes) * len(work.job.images.train)
    summary = Summary(
        zoo=directory.zoo.name,
        path=str(directory.path),
        engine=engine.name,
        ranks=1,
        models=len(outcomes),
        present=len(own) - len(missing),
        states=sum(outcome.states for outcome in outcomes),
        diverged=sum(outcome.diverged for outcome in outcomes),
        test_acc=float(np.mean([o.test_acc for o in outcomes])) if outcomes else None,
        seconds=seconds,
        samples_per_second=trained / seconds,
        sparsity=float(np.mean(sparsities)) if sparsities else None,
    )
    return join_summaries(ranks.gather(summary))


@contextmanager
def _announced(directory: ZooDirectory) -> Iterator[None]:
    """Announce training in a directory; warn if another run trains there too."""
    lock = FileLock(directory.path / ".train.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        warnings.warn(
            AlreadyRunningWarning(
                f"another process trains models in {directory.path}, and both can train the same "
                "ones: stop one of them. Ranks share the models (docs/distributed.md)"
            ),
            stacklevel=2,
        )
    try:
        yield
    finally:
        lock.release()


def check_images(zoo: Zoo, images: ImageData) -> None:
    """Compare images with those that the models of a zoo can take.

    Raises:
        InvalidArgument: they have another shape or number of classes, or are too small.
    """
    architecture = zoo.layout.architecture
    found = images.shape
    size = architecture.image_size
    expected = (zoo.channels, *((size, size) if size else found[1:]))
    if not architecture.layers:
        resnet.check_images(images)
    if found != expected or images.classes != zoo.classes:
        advice = ""
        if images.name.startswith(PREFIX):
            sides = ", ".join(map(str, expected[1:]))
            ways = []
            if found[0] != expected[0]:
                ways.append(f'load_images("{images.name}", channels={expected[0]}) reads as many')
            if found[1:] != expected[1:]:
                ways.append(f'{SETTINGS} in the folder with the line {{"size": [{sides}]}} resizes')
            ways.append('"channels" and "classes" are those of the zoo\'s JSON')
            advice = f". {'; '.join(ways)}"
        raise InvalidArgument(
            f"{zoo.name} needs images of shape {expected} in {zoo.classes} classes; "
            f"{images.name} has {found} in {images.classes}{advice}"
        )


def _activations(zoo: Zoo, models: Sequence[Model]) -> list[str]:
    """Return the activations of a zoo, that of the first of some models first.

    Models that are trained later count too, since a zoo keeps its engine.
    """
    return list(dict.fromkeys([models[0].activation, *map(str, dict(zoo.grid)["activation"])]))


def check_generate(
    zoo: Zoo,
    root: str | os.PathLike[str],
    models: int | None,
    options: TrainOptions,
    publisher: Publisher | None,
) -> tuple[list[Model], dict[str, Any]]:
    """Refuse arguments of `generate` that cannot work, as far as they can be checked without
    images.

    Returns:
        The models that it would train, and, for models with one file per state, the entries of
        zoo.json about their training.

    Raises:
        InvalidArgument: the arguments do not fit the zoo, or a new zoo cannot be trained.
        FaultyZoo: the folder holds a zoo of this name that was made in another way.
    """
    check_count("models", models)
    options.check(zoo)
    if not zoo.layout.architecture.layers:
        resnet.check_zoo(zoo)
    if publisher is not None:
        publisher.check(zoo)
    specifications = zoo.models(models)
    begun = check_zoo_directory(root, zoo)
    provenance = _provenance(zoo, begun.info if begun else {}, options)
    if begun is None:
        refuse_twin_name(zoo.name)
        _refuse_repeats(zoo)
        return specifications, provenance
    engine, able = options.engine, zoo.layout.architecture.engines
    if engine == "auto":
        first = begun.info.get("engine")
        engine = first if first in able else able[0]  # an imported zoo names no engine
    check_zoo_directory(root, zoo, engine=engine, stream=ENGINES[engine].stream, **provenance)
    return specifications, provenance


def _refuse_repeats(zoo: Zoo) -> None:
    """Refuse one initialisation in two spellings, whose models would be trained twice.

    Only for a new zoo: in an existing one, the spelling is part of the models' ids.

    Raises:
        InvalidArgument: the grid has both spellings.
    """
    first: dict[tuple[str, frozenset[tuple[str, float]]], str] = {}
    for text in dict(zoo.grid)["init"]:
        name, numbers = init_numbers(text)
        other = first.setdefault((name, frozenset(numbers.items())), text)
        if other != text:
            raise InvalidArgument(
                f"zoo {zoo.name!r}: {other!r} and {text!r} of the grid are the same init"
            )


def _provenance(zoo: Zoo, begun: Mapping[str, Any], options: TrainOptions) -> dict[str, Any]:
    """Return zoo.json's entries about training for files per state: as asked for, or as begun.

    Args:
        zoo: the zoo to train.
        begun: content of its zoo.json; {} if it has none.
        options: the options asked for.
    """
    if not zoo.layout.architecture.file_per_state:
        return {}
    default = "bf16" if options.chosen_device == "cuda" else "fp32"
    keep = options.keep_epochs if options.keep_epochs is not None else begun.get("keep_epochs")
    if keep is not None and list(keep) == list(range(1, zoo.epochs + 1)):
        keep = None
    return {
        "precision": options.precision or begun.get("precision") or default,
        "compile": options.compile or begun.get("compile", False),
        "keep_epochs": list(map(int, keep)) if keep is not None else None,
    }
