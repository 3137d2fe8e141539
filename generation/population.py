"""Make a zoo: train those of its models that are not there yet and write each when it is complete.

Models that are equal in activation, optimizer, and dropout or not, can be trained side by side.
They fill blocks, and a block is trained from its first to its last epoch by one worker. Under
`torchrun` or `accelerate launch` each rank takes its share of the models and waits for the others
at the very end only. A killed run loses the blocks it was training and nothing else: the same
command goes on from there, with any number of threads or ranks. A ResNet-18 is a block of its own,
which goes on from its last epoch (trajectory.py).
"""

from __future__ import annotations

import atexit
import dataclasses
import multiprocessing
import os
import platform
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures import ThreadPoolExecutor as Threads
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..builders.catalog import Model, Zoo
from ..builders.layout import ARCHITECTURES
from ..builders.parquet import Cancelled
from ..builders.pushing import (
    STAGING_BYTES,
    PushSummary,
    check_push,
    prepare_push,
    push_models,
    unpublished,
)
from ..builders.workers import end_with_parent, interrupts_held
from ..builders.zoo_directory import (
    Published,
    ZooDirectory,
    ZooNotFound,
    create_zoo,
    open_zoo,
)
from .engines import reference, resnet
from .engines.lanes import LanesPopulation, LanesUnavailable, lanes_count
from .images import ImageData
from .plan import Plan, check_space, free_bytes, make_plan, measure_epoch, model_bytes
from .streams import SampleOrders, initial_weights, sample_orders
from .trajectory import Outcome, remove_checkpoint, train_trajectory

ENGINES = ("lanes", "batched", "reference")
"""For CNNs; ResNet-18 has the engine "resnet" alone."""
STREAMS = {"lanes": "philox", "batched": "philox", "reference": "torch", "resnet": "philox"}
"""Where an engine's dropout masks and augmentation come from (streams.py, augmentation.py)."""

SHARE = 16
"""Models that a rank takes at a time: a full block of the widest lanes."""

BATCHED_BLOCK = {"cpu": 64, "cuda": 1024}
"""Models that the batched engine stacks."""

PUSH_SECONDS = 60.0
"""Between two looks for models to publish: the Hub limits commits to some hundred an hour."""


class TrainingFailed(RuntimeError):
    """A worker stopped; the models that were finished before are on disk."""


class SlowEngineWarning(UserWarning):
    """The fastest engine cannot run here; the message says why, and which one is used."""


class PublishingWarning(UserWarning):
    """Finished models could not be published now, or wait for it to make room on the disk."""


class Population(Protocol):
    """Models in training side by side; arrays have one entry or row for each model."""

    @property
    def weights(self) -> np.ndarray:
        """float32 [P, N] in layout order."""

    def train_epoch(self, images: Any, labels: Any, orders: Any) -> tuple[np.ndarray, np.ndarray]:
        """Train one epoch, each model in its own order; running means of loss and accuracy."""

    def evaluate(self, images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean loss and accuracy in evaluation mode."""


@dataclass(frozen=True)
class Progress:
    """How far this rank is: what a progress bar shows. `samples` are model-samples trained,
    `published` models on the Hub by this run, None if it publishes none."""

    models: int
    models_total: int
    states: int
    states_total: int
    samples: int
    published: int | None = None


@dataclass(frozen=True)
class Summary:
    """What one run of `generate` or `sparsify` did, all ranks together.

    Attributes:
        zoo, path: name and folder.
        engine: that trained.
        ranks: processes that shared the work.
        models: trained in this run; `present`: models that were there before.
        states: written in this run.
        diverged: models of this run whose last weights are not finite. They are kept, as the
            original keeps them.
        test_acc: mean over this run's models at the last epoch; None if there are none.
        sparsity: the same, of twins; None for models of their own.
        published, freed: models that were published in this run, and removed here; None if that
            was not asked for.
        left_out: what could not be trained, with the reason: parents of twins by model id.
        seconds: of training, evaluating and writing; of the slowest rank.
        samples_per_second: training images seen by all models together, each second.
    """

    zoo: str
    path: str
    engine: str
    ranks: int
    models: int
    present: int
    states: int
    diverged: int
    test_acc: float | None
    seconds: float
    samples_per_second: float
    sparsity: float | None = None
    published: int | None = None
    freed: int | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What is trained into a zoo directory: models of a zoo, from their initial weights.

    `run` does any job; those of sparse twins (sparsification.py) override what they do otherwise.
    The processes of the reference engine get a copy of it. ResNet-18 needs no more of it than the
    directory, whose zoo.json says how it is trained, and the images.
    """

    directory: ZooDirectory
    images: ImageData

    def population(
        self, engine: str, models: Sequence[Model], initial: np.ndarray, **options: Any
    ) -> Population:
        """Models that are trained side by side.

        Args:
            engine: "lanes" or "batched".
            models: of the population, [P].
            initial: weights as their seeds draw them, float32 [P, N].
            options: of the engine.
        """
        return population_class(engine)(
            self.directory.zoo.layout, weights=initial, **options, **engine_arguments(models)
        )

    def train_epoch(
        self, population: Any, images: Any, labels: Any, orders: Any, epoch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """One epoch, from 1 on; the rest as `Population.train_epoch`."""
        return population.train_epoch(images, labels, orders)

    def tensors(self, population: Any) -> dict[str, np.ndarray]:
        """What is kept of a state, float32 [P, N] each: weights, and a twin's further tensors."""
        return {"weights": population.weights}

    def trajectory(self, model: Model) -> Iterator[reference.State]:
        """One model's states, by the reference engine."""
        return reference.train(model, self.directory.zoo.layout, self.images)

    def write(
        self, model: Model, tensors: Mapping[str, np.ndarray], metrics: Mapping[str, np.ndarray]
    ) -> Outcome:
        """Write a model that is complete.

        Args:
            tensors: as `tensors`, [S, N] each.
            metrics: name -> [S].
        """
        weights = tensors["weights"]
        epochs = np.arange(len(weights))
        self.directory.write_model(
            model.model_id, model.hyperparameters(), epochs, weights, metrics
        )
        return Outcome(
            test_acc=float(metrics["test_acc"][-1]),
            diverged=not bool(np.isfinite(weights[-1]).all()),
            states=len(epochs),
            epochs=int(epochs[-1]),
        )


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


def begin(
    root: str | os.PathLike[str], zoo: Zoo, engine: str, images: ImageData, **provenance: Any
) -> ZooDirectory:
    """The directory of a zoo that an engine trains on these images, new or to be continued.

    Raises:
        FaultyZoo: the folder holds a zoo of this name that was made otherwise.
    """
    return create_zoo(
        root,
        zoo,
        engine=engine,
        stream=STREAMS[engine],
        images={"name": images.name, "sha256": images.digest(), "verified": images.verified},
        **provenance,
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "cpu": reference.cpu_kind(),
        },
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
    if zoo.architecture == "resnet18":
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


def check_training(zoo: Zoo, engine: str, threads: int | None, device: str | None) -> None:
    """Whether models of such a zoo can be trained with these arguments.

    Raises:
        ValueError: as `generate`.
    """
    engines = ("resnet",) if zoo.architecture == "resnet18" else ENGINES
    if engine not in (*engines, "auto"):
        raise ValueError(
            f"unknown engine {engine!r} for {ARCHITECTURES[zoo.architecture].title}; "
            f"known: auto, {', '.join(engines)}"
        )
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', found {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch finds no CUDA device here")
    if threads is not None and threads < 1:
        raise ValueError(f"the number of threads must be at least 1, found {threads}")


def group_models(models: Sequence[Model], size: int) -> list[list[Model]]:
    """Blocks of at most `size` models that can be trained side by side, in the models' order.

    Models of one block are equal in activation, optimizer, dropout or not, batch size and epochs;
    learning rate, weight decay, momentum, dropout rate, initialisation and seed may differ.
    """
    blocks: list[list[Model]] = []
    filling: dict[tuple[Any, ...], list[Model]] = {}
    for model in models:
        key = (model.activation, model.optimizer, model.dropout > 0, model.batch_size, model.epochs)
        if len(filling.get(key, range(size))) == size:
            filling[key] = []
            blocks.append(filling[key])
        filling[key].append(model)
    return blocks


def share_models(zoo: Zoo, models: Sequence[Model], ranks: int) -> list[list[Model]]:
    """The models of each rank: full blocks in turn, of ResNet-18 single models."""
    groups = group_models(models, 1 if zoo.architecture == "resnet18" else SHARE)
    return [[model for group in groups[rank::ranks] for model in group] for rank in range(ranks)]


def check_images(zoo: Zoo, images: ImageData) -> None:
    """Whether models of a zoo can see these images.

    Raises:
        ValueError: they have another shape or number of classes, or are too small.
    """
    found = tuple(images.train.pixels.shape[1:])
    size = ARCHITECTURES[zoo.architecture].image_size
    expected = (zoo.channels, *((size, size) if size else found[1:]))
    if zoo.architecture == "resnet18":
        resnet.check_images(images)
    if found != expected or images.classes != zoo.classes:
        raise ValueError(
            f"{zoo.name} needs images of shape {expected} in {zoo.classes} classes; "
            f"{images.name} has {found} in {images.classes}"
        )


def choose_engine(
    zoo: Zoo, root: str | os.PathLike[str], engine: str, device: str | None, lanes: bool = True
) -> tuple[str, str]:
    """The engine and device for "auto" and None; arguments as of `generate`.

    Args:
        lanes: whether the lane kernel can do what is asked for.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if zoo.architecture == "resnet18":
        engine = "resnet"
    if engine == "auto":
        try:
            begun = open_zoo(root, zoo.name).info.get("engine")
        except ZooNotFound:
            begun = None
        if begun in ENGINES:
            engine = begun
        else:
            engine = "batched" if device == "cuda" or not lanes else "lanes"
            if engine == "lanes":
                try:
                    lanes_count(zoo.layout, dict(zoo.grid)["activation"][0])
                except LanesUnavailable as error:
                    warnings.warn(
                        f"{error}: training with the batched engine, which is several times slower",
                        SlowEngineWarning,
                        stacklevel=3,
                    )
                    engine = "batched"
    return engine, device


def _options(
    zoo: Zoo,
    root: str | os.PathLike[str],
    device: str,
    precision: str | None,
    compile: bool,
    keep_epochs: Sequence[int] | None,
) -> dict[str, Any]:
    """What zoo.json says of a ResNet zoo besides: as asked for, as begun, or by default."""
    if zoo.architecture != "resnet18":
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


@dataclass(frozen=True)
class _Ranks:
    """The processes that share a run; one, unless a launcher started several."""

    index: int
    count: int
    local_count: int

    def cores(self) -> int:
        """Cores for this rank: its share of those that this machine's ranks may use."""
        if hasattr(os, "sched_getaffinity"):
            cores = len(os.sched_getaffinity(0))
        else:
            cores = os.cpu_count() or 1
        return max(1, cores // self.local_count)

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, once all have come here."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def wait(self) -> None:
        """Until all ranks have come here."""
        self.gather(None)


def _rank_count() -> int:
    """Processes that share this run, as their launcher says; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def _join_ranks(device: str) -> _Ranks:
    count = _rank_count()
    if count == 1:
        return _Ranks(0, 1, 1)
    from accelerate import PartialState

    # Ranks meet at the end, when one may have been done for days: no time-out until then. Through
    # gloo: NCCL would busy a GPU while it waits, and lets no two ranks share one.
    state = PartialState(cpu=device == "cpu", backend="gloo", timeout=timedelta(days=365))
    # A group that is still there when Python shuts down can abort the process, its work done.
    atexit.register(_leave_ranks)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    return _Ranks(state.process_index, state.num_processes, local)


def _leave_ranks() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _join_summaries(summaries: list[Summary]) -> Summary:
    models = sum(summary.models for summary in summaries)
    total = sum((s.test_acc or 0.0) * s.models for s in summaries)
    pruned = sum((s.sparsity or 0.0) * s.models for s in summaries)
    of_twins = any(s.sparsity is not None for s in summaries)
    seconds = max(summary.seconds for summary in summaries)
    return dataclasses.replace(
        summaries[0],
        ranks=len(summaries),
        models=models,
        present=sum(summary.present for summary in summaries),
        states=sum(summary.states for summary in summaries),
        diverged=sum(summary.diverged for summary in summaries),
        test_acc=total / models if models else None,
        sparsity=pruned / models if of_twins else None,
        seconds=seconds,
        samples_per_second=sum(s.samples_per_second * s.seconds for s in summaries) / seconds,
    )


# --- Workers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """What every worker of a run needs."""

    job: Job
    threads: int
    device: str
    on_progress: Callable[[Progress], None] | None
    room: int


def _train_lanes(work: _Work, models: list[Model]) -> Iterator[Outcome]:
    """A thread for each core, a block of one model a lane in each: the kernel releases the GIL."""
    zoo = work.job.directory.zoo
    blocks = group_models(models, lanes_count(zoo.layout, dict(zoo.grid)["activation"][0]))
    yield from _train_blocks(work, "lanes", blocks, work.threads, "cpu", {"threads": 1})


def _train_batched(work: _Work, models: list[Model]) -> Iterator[Outcome]:
    """One block of stacked models after the other, with torch's own threads."""
    blocks = group_models(models, BATCHED_BLOCK[torch.device(work.device).type])
    options = {"device": work.device, "threads": work.threads}
    yield from _train_blocks(work, "batched", blocks, 1, work.device, options)


def population_class(engine: str) -> type[Population]:
    """The class that trains models of their own."""
    if engine == "lanes":
        return LanesPopulation
    from .engines.batched import BatchedPopulation

    return BatchedPopulation


def engine_arguments(models: Sequence[Model]) -> dict[str, Any]:
    """What a population engine wants to know about models that are trained side by side."""
    first = models[0]
    return {
        "activation": first.activation,
        "optimizer": first.optimizer,
        "batch_size": first.batch_size,
        "seeds": np.array([model.seed for model in models], np.int64),
        "learning_rate": np.array([model.learning_rate for model in models]),
        "weight_decay": np.array([model.weight_decay for model in models]),
        "momentum": np.array([model.momentum or 0.0 for model in models]),
        "dropout": np.array([model.dropout for model in models]),
    }


def _train_blocks(
    work: _Work,
    engine: str,
    blocks: list[list[Model]],
    threads: int,
    device: str,
    options: Mapping[str, Any],
) -> Iterator[Outcome]:
    # On the device once and for all: an engine does not copy what lies there already.
    images = work.job.images
    sets = {
        name: (images.normalized(split).to(device), getattr(images, split).labels.to(device))
        for name, split in (("train", "train"), ("val", "validation"), ("test", "test"))
        if getattr(images, split) is not None
    }
    stop, drawing = threading.Event(), threading.Lock()
    states, trained = [0] * len(blocks), [0] * len(blocks)

    def train(number: int) -> list[Outcome]:
        def begin(block: list[Model], initial: np.ndarray) -> Population:
            return work.job.population(engine, block, initial, **options)

        def on_epoch(epoch: int) -> bool:
            states[number] += len(blocks[number])
            trained[number] += len(blocks[number]) * (epoch > 0)
            return not stop.is_set()

        return _train_block(work.job, blocks[number], sets, begin, drawing, on_epoch)

    pool = Threads(min(threads, len(blocks)) or 1)
    futures = {pool.submit(train, number): blocks[number] for number in range(len(blocks))}
    yield from _collect(work, pool, futures, lambda: (sum(states), sum(trained)), stop)


def _train_block(
    job: Job,
    block: list[Model],
    sets: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    begin: Callable[[list[Model], np.ndarray], Population],
    drawing: threading.Lock,
    on_epoch: Callable[[int], bool],
) -> list[Outcome]:
    """Train the models of one block through all epochs, then write their files."""
    # Another run of the same zoo may have come first.
    block = [model for model in block if not job.directory.finished(model.model_id)]
    if not block:
        return []
    layout, epochs = job.directory.zoo.layout, block[0].epochs
    with drawing:  # torch's global stream is borrowed
        drawn = [initial_weights(layout, model.init, model.seed) for model in block]
    orders = [SampleOrders(generator, len(sets["train"][1])) for _, generator in drawn]
    population = begin(block, np.stack([weights for weights, _ in drawn]))
    held_out = [name for name in sets if name != "train"]
    tensors: dict[str, np.ndarray] = {}
    metrics = {
        f"{name}_{kind}": np.empty((len(block), epochs + 1))
        for name in sets
        for kind in ("loss", "acc")
    }
    for epoch in range(epochs + 1):
        if epoch == 0:
            scores = {"train": population.evaluate(*sets["train"])}
        else:
            order = sample_orders(orders, epoch)
            scores = {"train": job.train_epoch(population, *sets["train"], order, epoch)}
        scores |= {name: population.evaluate(*sets[name]) for name in held_out}
        for name, values in job.tensors(population).items():
            if epoch == 0:
                tensors[name] = np.empty((len(block), epochs + 1, layout.size), np.float32)
            tensors[name][:, epoch] = values
        for name, (loss, accuracy) in scores.items():
            metrics[f"{name}_loss"][:, epoch] = loss
            metrics[f"{name}_acc"][:, epoch] = accuracy
        if not on_epoch(epoch):
            return []
    return [
        job.write(
            model,
            {name: values[number] for name, values in tensors.items()},
            {name: values[number] for name, values in metrics.items()},
        )
        for number, model in enumerate(block)
    ]


def _train_resnet(work: _Work, models: list[Model]) -> Iterator[Outcome]:
    """One model after the other, its states written by a second thread."""
    directory, images = work.job.directory, work.job.images.to(work.device)
    stop, counts = threading.Event(), {"states": 0, "images": 0}

    def on_step(images: int) -> bool:
        counts["images"] += images
        return not stop.is_set()

    def on_state(states: int) -> None:
        counts["states"] += states

    def train(model: Model) -> list[Outcome]:
        if stop.is_set() or directory.finished(model.model_id):
            return []
        _wait_for_room(directory, work.room, stop)
        try:
            outcome = train_trajectory(
                *(directory, model, images),
                precision=directory.info["precision"],
                compile=directory.info["compile"],
                threads=work.threads if work.device == "cpu" else None,
                on_step=on_step,
                on_state=on_state,
            )
        except resnet.Stopped:
            return []
        return [outcome]

    pool = Threads(1)
    futures = {pool.submit(train, model): [model] for model in models}

    def states() -> tuple[int, float]:
        return counts["states"], counts["images"] / len(images.train)

    yield from _collect(work, pool, futures, states, stop)


def _wait_for_room(directory: ZooDirectory, room: int, stop: threading.Event) -> None:
    """Until there is room for one more model, or no finished one is left that would make it.

    Raises:
        TrainingFailed: nothing more is published that would make it.
    """
    said = False
    while not stop.is_set() and free_bytes(directory.path) < room:
        published = directory.published()
        if not unpublished(directory) and "here" not in published.models.values():
            return  # nothing that would be removed
        if published.stopped is not None:
            raise TrainingFailed(
                f"there is no room for another model in {directory.path}, and finished ones cannot "
                f"be published and removed ({published.stopped}): mend that, then run the same "
                "command again"
            )
        if not said:
            warnings.warn(
                f"a model waits until {room / 1e9:.1f} GB are free in {directory.path}, or "
                "finished ones are published and removed",
                PublishingWarning,
                stacklevel=1,
            )
        said = True
        stop.wait(1)


# The reference engine trains one model at a time, so its workers are processes.

_worker: dict[str, Any] = {}


def _train_reference(work: _Work, models: list[Model]) -> Iterator[Outcome]:
    # Not fork: a forked child of a process whose torch has started threads can hang.
    context = multiprocessing.get_context("spawn")
    states, stop = context.Array("q", 2), context.Event()
    pool = ProcessPoolExecutor(
        min(work.threads, len(models)) or 1,
        context,
        _start_worker,
        (work.job, states, stop),
    )
    with interrupts_held():
        futures = {pool.submit(_train_one, model): [model] for model in models}
    yield from _collect(work, pool, futures, lambda: tuple(states), stop)


def _start_worker(job: Job, states: Any, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and sets `stop`
    end_with_parent()
    _worker.update(job=job, states=states, stop=stop)


def _train_one(model: Model) -> list[Outcome]:
    job: Job = _worker["job"]
    if _worker["stop"].is_set() or job.directory.finished(model.model_id):
        return []
    trajectory = []
    for state in job.trajectory(model):
        trajectory.append(state)
        with _worker["states"].get_lock():
            _worker["states"][0] += 1
            _worker["states"][1] += state.epoch > 0
        if _worker["stop"].is_set():
            return []
    vectors = [{"weights": state.weights, **state.extra} for state in trajectory]
    tensors = {name: torch.stack([v[name] for v in vectors]).numpy() for name in vectors[0]}
    names = trajectory[-1].metrics
    metrics = {name: np.array([state.metrics[name] for state in trajectory]) for name in names}
    return [job.write(model, tensors, metrics)]


def _collect(
    work: _Work,
    pool: Executor,
    futures: Mapping[Future[list[Outcome]], list[Model]],
    states: Callable[[], tuple[int, float]],
    stop: Any,
) -> Iterator[Outcome]:
    """Outcomes as they come; on an error or interruption the workers stop after their epoch."""
    total = sum(len(models) for models in futures.values())
    directory = work.job.directory
    kept = len(directory.kept_epochs)
    running, done = set(futures), 0
    try:
        while running:
            finished, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                yield from future.result()
                done += len(futures[future])
            if work.on_progress is not None:
                present, trained = states()
                samples = round(trained * len(work.job.images.train))
                work.on_progress(Progress(done, total, present, total * kept, samples))
    except (BrokenProcessPool, OSError) as error:
        reason = (
            "a training process ended at once or was killed (out of memory? or a script that "
            'calls this outside of `if __name__ == "__main__":`?)'
        )
        if isinstance(error, OSError):
            reason = f"a model could not be written ({error})"
        raise TrainingFailed(
            f"{reason}; {done} models of this run are finished in {directory.path}: run the "
            "same command again for the others"
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


_TRAINERS: dict[str, Callable[[_Work, list[Model]], Iterator[Outcome]]] = {
    "lanes": _train_lanes,
    "batched": _train_batched,
    "reference": _train_reference,
    "resnet": _train_resnet,
}
