"""The engines: how models are trained and evaluated, and which engine does it.

    lanes         small networks, one in each SIMD lane of a CPU core: the fastest on a CPU
    cuda          small networks, each in one block of threads of a GPU
    batched       small networks stacked in torch: what lanes and cuda cannot train or run
    reference     one small network at a time in plain torch, to the bit as the paper's code
    resnet        one large network at a time in torch, with a checkpoint after each epoch

A new engine is one entry of `ENGINES`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ...builders.layout import Layout
from ...builders.machine import cores
from ...builders.phrases import counted
from ...builders.specification import Model, Zoo
from ...builders.zoo_directory import open_zoo
from ...errors import (
    CudaUnavailable,
    InvalidArgument,
    LanesUnavailable,
    SlowEngineWarning,
    ZooNotFound,
)
from ..job import Job, Outcome, Work
from ..networks import build
from ..options import TrainOptions
from . import checkpointed, reference
from .batched import BatchedPopulation, BatchedWeights
from .batched_twins import BatchedTwins
from .cuda import CudaPopulation, CudaWeights, load_cuda
from .epoch_loop import TOGETHER, group_models, train_blocks
from .lanes import LanesPopulation, LanesTwins, LanesWeights, block_size, lanes_are_faster
from .modules import ModulesPopulation
from .population import Population, Scores
from .processes import NETWORKS, train_in_processes

__all__ = ["ENGINES", "Engine", "choose_engine", "evaluate", "group_models", "populate"]


@dataclass(frozen=True)
class Engine:
    """A way to train the models of a zoo.

    Attributes:
        name: as in zoo.json and in the options.
        stream: where dropout masks and augmentation come from (streams.py, augmentation.py).
        train: trains models and writes them, yielding each when it is finished.
        methods: what it can train, by `Job.method`.
        side_by_side: how many models a block has on a device.
        block_a_thread: whether each thread trains a block, instead of all threads the same.
    """

    name: str
    stream: str
    train: Callable[[Work, Sequence[Model]], Iterator[Outcome]]
    methods: tuple[str, ...]
    side_by_side: Callable[[Zoo, str], int] = lambda zoo, device: 1
    block_a_thread: bool = True


LANES: Mapping[str, type[LanesPopulation] | type[LanesTwins]] = {
    "dense": LanesPopulation,
    "variational": LanesTwins,
}
BATCHED: Mapping[str, Callable[..., Population]] = {
    "dense": BatchedPopulation,
    "variational": BatchedTwins,
    "magnitude": BatchedPopulation,
}
BATCHED_BLOCK = {"cpu": 64, "cuda": 1024}
"""Models that the batched engine stacks."""
CUDA_BLOCK, CUDA_BYTES = 1056, 4 << 30
"""Models that the engine cuda trains together, and bytes of their states until they are written. An
H100 or H200 has 132 multiprocessors, each of which trains two CNN-s at a time: four rounds."""


SMALL = ("lanes", "cuda", "batched", "reference")
"""The engines of sequences of layers."""


def _lanes(zoo: Zoo, device: str) -> int:
    """How many models one vector holds."""
    return block_size()


def _batch(zoo: Zoo, device: str) -> int:
    """How many models the batched engine stacks."""
    return BATCHED_BLOCK[torch.device(device).type]


def _cuda_block(zoo: Zoo, device: str) -> int:
    """How many models the engine cuda trains together."""
    return max(1, min(CUDA_BLOCK, CUDA_BYTES // (4 * zoo.layout.size * (zoo.epochs + 1))))


def _train_lanes(work: Work, models: Sequence[Model]) -> Iterator[Outcome]:
    """A thread for each core, a block of one model a lane in each: the kernel releases the GIL."""
    zoo = work.job.directory.zoo
    lanes = _lanes(zoo, work.device)
    blocks = group_models(models, lanes)
    populate = partial(LANES[work.job.method], threads=1)
    remark = _lanes_remark(work.job, models, blocks, lanes)
    yield from train_blocks(
        work, blocks, populate, threads=work.threads, in_lanes=True, remark=remark
    )


def _lanes_remark(
    job: Job, models: Sequence[Model], blocks: Sequence[Sequence[Model]], lanes: int
) -> str:
    """Say how full the lanes are, and how many models of the zoo take as long; "" if over half."""
    room = len(blocks) * lanes
    if not 0 < len(models) <= room / 2:
        return ""
    text = f"the lanes are {len(models) / room:.0%} full with {counted(len(models), 'model')}: "
    text += TOGETHER
    if job.method != "dense":
        return text
    zoo = job.directory.zoo
    following = zoo.models(min(room, zoo.model_count))
    if following[: len(models)] != [*models]:  # the rest of an earlier run, or a rank's share
        return text
    # The first of the zoo's models that opens a block more.
    more = group_models(following, lanes)[len(blocks) :]
    most = following.index(more[0][0]) if more else len(following)
    return text + f". Up to {most} models would take as long" * (most > len(models))


def _train_batched(work: Work, models: Sequence[Model]) -> Iterator[Outcome]:
    """One block of stacked models after the other, with torch's own threads."""
    blocks = group_models(models, _batch(work.job.directory.zoo, work.device))
    populate = partial(BATCHED[work.job.method], device=work.device, threads=work.threads)
    yield from train_blocks(work, blocks, populate, threads=1, device=work.device)


def _train_cuda(work: Work, models: Sequence[Model]) -> Iterator[Outcome]:
    """A block of threads for each model: the GPU takes the next model when one is done."""
    blocks = group_models(models, _cuda_block(work.job.directory.zoo, work.device))
    populate = partial(CudaPopulation, device=work.device)
    yield from train_blocks(work, blocks, populate, threads=1, device=work.device)


ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine("lanes", "philox", _train_lanes, tuple(LANES), _lanes),
        Engine(
            "cuda",
            "philox",
            _train_cuda,
            ("dense",),
            _cuda_block,
            block_a_thread=False,
        ),
        Engine("batched", "philox", _train_batched, tuple(BATCHED), _batch, block_a_thread=False),
        Engine("reference", "torch", train_in_processes, tuple(NETWORKS)),
        Engine("resnet", "philox", checkpointed.train, ("dense",)),
    )
}
"""Every engine by name."""


def choose_engine(
    zoo: Zoo,
    root: str | os.PathLike[str],
    options: TrainOptions,
    activation: str,
    method: str = "dense",
) -> tuple[Engine, str]:
    """The engine and device that train a zoo.

    The engine is the one that is asked for; else that of a zoo that has been begun in `root`; else
    cuda on a GPU, or batched where cuda cannot train it; else the first of the architecture's that
    can run here; but batched where convolutions are so wide that lanes gain nothing
    (`lanes.library.is_faster`).

    Args:
        zoo: specification of the zoo.
        root: folder of all zoos.
        options: the engine and device that are asked for.
        activation: of the models that are trained first: whether their kernel can be built decides
            whether the engine can run here.
        method: what is trained (`Job.method`).

    Raises:
        InvalidArgument: the engine that is asked for cannot train it.
        CudaUnavailable: the engine cuda is asked for, or has begun the zoo, and the device of this
            run is not a GPU.
    """
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    able = [name for name in zoo.layout.architecture.engines if method in ENGINES[name].methods]
    if options.engine != "auto":
        if options.engine not in able:
            raise InvalidArgument(
                f"the engine {options.engine} does not train {method} models of "
                f"{zoo.layout.architecture.title}; those that do: {', '.join(able)}"
            )
        return _at(ENGINES[options.engine], device)
    try:
        begun = open_zoo(root, zoo.name).info.get("engine")
    except ZooNotFound:
        begun = None
    if begun in able:
        return _at(ENGINES[begun], device)
    if torch.device(device).type == "cuda" and "batched" in able:
        if "cuda" not in able:
            return ENGINES["batched"], device
        dropout = any((rate or 0) > 0 for rate in dict(zoo.grid).get("dropout", ()))
        found = _engine_of(zoo.layout, activation, "auto", device, dropout=dropout)
        return ENGINES[found], device
    if able[0] == "lanes":
        try:
            if not lanes_are_faster(zoo.layout, activation, LANES[method].kernel):
                del able[0]
        except LanesUnavailable as error:
            warnings.warn(
                SlowEngineWarning(
                    f"{error}: training with the engine {able[1]}, which is several times slower"
                ),
                stacklevel=3,
            )
            del able[0]
    return ENGINES[able[0]], device


def _at(engine: Engine, device: str) -> tuple[Engine, str]:
    """An engine with its device.

    Raises:
        CudaUnavailable: it is the one for GPUs, and the device is none.
    """
    if engine.name == "cuda" and torch.device(device).type != "cuda":
        raise CudaUnavailable(f"the engine cuda needs a CUDA device, and this run is on {device!r}")
    return engine, device


def evaluate(
    weights: ArrayLike,
    layout: Layout,
    activation: str,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
) -> Scores:
    """Score many weight vectors of one architecture on the same images, in evaluation mode.

    Args:
        weights: float32 [P, N] in layout order.
        layout: of the vectors.
        activation: of the networks.
        images: float32 [n, channels, h, w], normalised as at training.
        labels: integers [n] in [0, classes).
        engine: "lanes", "cuda", "batched" or "reference". "auto": with device="cuda", cuda, or
            batched where cuda cannot run; otherwise, on the CPU, lanes where the kernel can be
            built and is faster, else batched. Architectures that are no sequence of layers are
            always evaluated as by "reference": one network at a time in plain torch.
        device: "cpu" or "cuda"; None for the CPU, for the engine cuda the GPU.
        threads: cores to use; None for all that this process may use.

    Returns:
        Loss in nats and accuracy as a share of 1, float64 [P] each.

    Raises:
        InvalidArgument: arguments of a wrong shape or an unknown engine.
        LanesUnavailable, CudaUnavailable: lanes or cuda are asked for and cannot run here.
    """
    _check_device(device)
    if not layout.architecture.layers or engine == "reference":
        return _evaluate_modules(
            np.asarray(weights, np.float32), layout, activation, images, labels, device, threads
        )
    engine = _engine_of(layout, activation, engine, device)
    if engine == "lanes":
        return LanesWeights(layout, activation, weights, threads=threads).evaluate(images, labels)
    if engine == "cuda":
        fused = CudaWeights(layout, activation, weights, device=device or "cuda")
        return fused.evaluate(images, labels)
    if engine == "batched":
        population = BatchedWeights(
            layout, activation, weights, device=device or "cpu", threads=threads
        )
        return population.evaluate(images, labels)
    raise InvalidArgument(f"unknown engine {engine!r}; known: auto, {', '.join(SMALL)}")


def populate(
    layout: Layout,
    models: Sequence[Model],
    weights: ArrayLike,
    *,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
) -> Population:
    """Make a population of given weights, to be trained side by side.

    Args:
        layout: of the vectors.
        models: [P], as `group_models` puts them together; their seeds are those of dropout masks.
        weights: float32 [P, N] in layout order.
        engine, device, threads: as for `evaluate`.

    Raises:
        InvalidArgument: models that do not fit together, or an unknown engine.
        LanesUnavailable, CudaUnavailable: lanes or cuda are asked for and cannot run here.
    """
    _check_device(device)
    if layout.architecture.layers and engine != "reference":
        engine = _engine_of(layout, models[0].activation, engine, device)
        if engine == "lanes":
            return LanesPopulation(layout, models, weights, threads=threads)
        if engine == "cuda":
            return CudaPopulation(layout, models, weights, device=device or "cuda")
        if engine == "batched":
            return BatchedPopulation(
                layout, models, weights, device=device or "cpu", threads=threads
            )
        raise InvalidArgument(f"unknown engine {engine!r}; known: auto, {', '.join(SMALL)}")
    return ModulesPopulation(layout, models, weights, device=device, threads=threads)


def _check_device(device: str | None) -> None:
    """Refuse a device that torch does not know, or a GPU where there is none."""
    try:
        kind = torch.device(device or "cpu").type
    except RuntimeError:
        raise InvalidArgument(f"device must be 'cpu' or 'cuda', found {device!r:.60}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise CudaUnavailable("the device 'cuda' was asked for, and torch finds no CUDA device")


def _engine_of(
    layout: Layout, activation: str, engine: str, device: str | None, *, dropout: bool = False
) -> str:
    """Return the engine that is asked for; in place of "auto" the fastest that can run here."""
    if engine != "auto":
        return engine
    if device is not None and torch.device(device).type == "cuda":
        try:
            load_cuda(layout, activation, dropout, torch.device(device))
        except CudaUnavailable as error:
            warnings.warn(
                SlowEngineWarning(f"{error}: using the engine batched, which is slower"),
                stacklevel=3,
            )
            return "batched"
        return "cuda"
    try:
        return "lanes" if lanes_are_faster(layout, activation) else "batched"
    except LanesUnavailable:
        return "batched"


MODULE_BATCH = {"cpu": 64, "cuda": 256}
"""Images that a network which is no sequence of layers is evaluated on at a time."""


def _evaluate_modules(
    weights: NDArray[np.float32],
    layout: Layout,
    activation: str,
    images: ArrayLike,
    labels: ArrayLike,
    device: str | None,
    threads: int | None,
) -> Scores:
    """As the reference engine evaluates: a network on one thread, all images in one batch."""
    x = torch.as_tensor(images, device=device)
    y = torch.as_tensor(labels, device=device)
    batch, order = len(y), torch.contiguous_format
    if not layout.architecture.layers:  # a third faster for ResNet-18
        batch, order = MODULE_BATCH[x.device.type], torch.channels_last
        x = x.contiguous(memory_format=order)

    def score(vector: NDArray[np.float32]) -> tuple[float, float]:
        module = build(layout, activation)
        module.to(x.device, memory_format=order)  # type: ignore[call-overload]
        tensors = layout.to_state_dict(torch.from_numpy(np.array(vector)).to(x.device))
        module.load_state_dict(tensors, strict=False)
        return reference.evaluate(module, x, y, batch)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads or cores()) as pool:
            results = list(pool.map(score, weights))
    finally:
        torch.set_num_threads(before)
    loss, accuracy = np.array(results, np.float64).T
    return loss, accuracy
