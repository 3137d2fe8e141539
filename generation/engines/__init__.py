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
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import ArrayLike

from ...builders.layout import Layout
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
from ..options import TrainOptions
from . import checkpointed
from .batched import BatchedPopulation, BatchedTwins, BatchedWeights
from .cuda import CudaPopulation, CudaWeights, check_cuda, load_cuda
from .epoch_loop import TOGETHER, group_models, train_blocks
from .lanes import (
    LanesPopulation,
    LanesTwins,
    LanesWeights,
    block_size,
    check_lanes,
    lanes_are_faster,
)
from .modules import ModulesPopulation, ModulesWeights
from .population import Evaluable, Population, Scores
from .processes import NETWORKS, train_in_processes

__all__ = ["ENGINES", "Engine", "choose_engine", "evaluate", "group_models", "populate"]


@dataclass(frozen=True)
class Engine:
    """A way to train and evaluate networks.

    Attributes:
        name: name in zoo.json and in the options.
        stream: source of dropout masks and augmentation (streams.py, augmentation.py).
        train: trains models and writes them, and yields each when it is finished.
        methods: values of `Job.method` that it can train.
        weights: class of weight vectors to be evaluated. It takes a layout, an activation, float32
            [P, N] and `arguments`.
        population: class of dense models in training. It takes a layout, the models, float32 [P, N]
            and `arguments`.
        arguments: keyword arguments of both classes for a device (None for the engine's default)
            and a number of threads (None for one per core).
        side_by_side: number of models in a block on a device.
        block_a_thread: whether each thread trains a block of its own, or all threads share one.
        check: raises an error for a layout, activations or a device that it cannot train.
    """

    name: str
    stream: str
    train: Callable[[Work, Sequence[Model]], Iterator[Outcome]]
    methods: tuple[str, ...]
    weights: Callable[..., Evaluable]
    population: Callable[..., Population]
    arguments: Callable[[str | None, int | None], Mapping[str, Any]] = lambda device, threads: {
        "device": device,
        "threads": threads,
    }
    side_by_side: Callable[[Zoo, str], int] = lambda zoo, device: 1
    block_a_thread: bool = True
    check: Callable[[Layout, Sequence[str], str], None] = lambda layout, activations, device: None


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
"""Number of models that the batched engine stacks, by device."""
CUDA_BLOCK, CUDA_BYTES = 1056, 4 << 30
"""Maximum number of models that the engine cuda trains together, and of the bytes of their states.
An H100 or H200 has 132 multiprocessors, each of which trains two CNN-s at a time: four rounds."""


def _lanes(zoo: Zoo, device: str) -> int:
    """Return the number of models in one SIMD vector."""
    return block_size()


def _batch(zoo: Zoo, device: str) -> int:
    """Return the number of models that the batched engine stacks."""
    return BATCHED_BLOCK[torch.device(device).type]


def _cuda_block(zoo: Zoo, device: str) -> int:
    """Return the number of models that the engine cuda trains together."""
    return max(1, min(CUDA_BLOCK, CUDA_BYTES // (4 * zoo.layout.size * (zoo.epochs + 1))))


def _train_lanes(work: Work, models: Sequence[Model]) -> Iterator[Outcome]:
    """Train one block of models per thread; the kernel releases the GIL."""
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
    """Return how full the lanes are and how many models take as long; "" if over half full."""
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
    """Train one block of stacked models after the other, with torch's own threads."""
    blocks = group_models(models, _batch(work.job.directory.zoo, work.device))
    populate = partial(BATCHED[work.job.method], device=work.device, threads=work.threads)
    yield from train_blocks(work, blocks, populate, threads=1, device=work.device)


def _train_cuda(work: Work, models: Sequence[Model]) -> Iterator[Outcome]:
    """Train one model per block of GPU threads; the GPU takes the next model when one is done."""
    blocks = group_models(models, _cuda_block(work.job.directory.zoo, work.device))
    populate = partial(CudaPopulation, device=work.device)
    yield from train_blocks(work, blocks, populate, threads=1, device=work.device)


ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(
            "lanes",
            "philox",
            _train_lanes,
            tuple(LANES),
            LanesWeights,
            LanesPopulation,
            lambda device, threads: {"threads": threads},
            _lanes,
            check=lambda layout, activations, device: check_lanes(layout, activations),
        ),
        Engine(
            "cuda",
            "philox",
            _train_cuda,
            ("dense",),
            CudaWeights,
            CudaPopulation,
            lambda device, threads: {"device": device or "cuda"},
            _cuda_block,
            block_a_thread=False,
            check=check_cuda,
        ),
        Engine(
            "batched",
            "philox",
            _train_batched,
            tuple(BATCHED),
            BatchedWeights,
            BatchedPopulation,
            lambda device, threads: {"device": device or "cpu", "threads": threads},
            _batch,
            block_a_thread=False,
        ),
        Engine(
            "reference",
            "torch",
            train_in_processes,
            tuple(NETWORKS),
            ModulesWeights,
            ModulesPopulation,
        ),
        Engine(
            "resnet",
            "philox",
            checkpointed.train,
            ("dense",),
            ModulesWeights,
            ModulesPopulation,
        ),
    )
}
"""Every engine by name."""


def choose_engine(
    zoo: Zoo,
    root: str | os.PathLike[str],
    options: TrainOptions,
    activations: Sequence[str],
    method: str = "dense",
) -> tuple[Engine, str]:
    """Return the engine and the device that train a zoo.

    The first of these that applies: the engine in `options`; the engine of a zoo begun in `root`;
    on a GPU, cuda, or batched if cuda cannot train the zoo; on a CPU, the first engine of the
    architecture that can run here, or batched if convolutions are so wide that lanes gain nothing
    (`lanes.library.is_faster`).

    Args:
        zoo: specification of the zoo.
        root: folder of all zoos.
        options: the requested engine and device.
        activations: the activations of its models, without repetition. Kernels must have all of
            them; the kernel of the first is built.
        method: method of training (`Job.method`).

    Raises:
        InvalidArgument: the requested engine cannot train the zoo.
        LanesUnavailable, CudaUnavailable: the engine that was requested, or that began the zoo, has
            no kernel for one of the activations, or is cuda and this run has no GPU.
    """
    device = options.chosen_device
    able = [name for name in zoo.layout.architecture.engines if method in ENGINES[name].methods]
    wanted: str | None = options.engine
    if wanted == "auto":
        try:
            wanted = open_zoo(root, zoo.name).info.get("engine")
        except ZooNotFound:
            wanted = None
    elif wanted not in able:
        raise InvalidArgument(
            f"the engine {wanted} does not train {method} models of "
            f"{zoo.layout.architecture.title}; those that do: {', '.join(able)}"
        )
    if wanted in able:
        ENGINES[wanted].check(zoo.layout, activations, device)
        return ENGINES[wanted], device
    if torch.device(device).type == "cuda" and "batched" in able:
        if "cuda" not in able:
            return ENGINES["batched"], device
        dropout = any((rate or 0) > 0 for rate in dict(zoo.grid).get("dropout", ()))
        found = _fastest(zoo.layout, activations, device, dropout=dropout)
        return ENGINES[found], device
    if able[0] == "lanes":
        try:
            check_lanes(zoo.layout, activations)
            if not lanes_are_faster(zoo.layout, activations[0], LANES[method].kernel):
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
    chosen = _engine_of(layout, activation, engine, device)
    networks = chosen.weights(layout, activation, weights, **chosen.arguments(device, threads))
    return networks.evaluate(images, labels)


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
    chosen = _engine_of(layout, models[0].activation, engine, device)
    return chosen.population(layout, models, weights, **chosen.arguments(device, threads))


def _check_device(device: str | None) -> None:
    """Refuse a device that torch does not know, or a GPU where there is none."""
    try:
        kind = torch.device(device or "cpu").type
    except RuntimeError:
        raise InvalidArgument(f"device must be 'cpu' or 'cuda', found {device!r:.60}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise CudaUnavailable("the device 'cuda' was asked for, and torch finds no CUDA device")


def _engine_of(layout: Layout, activation: str, engine: str, device: str | None) -> Engine:
    """Return the engine that is asked for; in place of "auto" the fastest that can run here.

    An architecture that is no sequence of layers has one engine, whatever is asked for.

    Raises:
        InvalidArgument: an unknown engine or device.
        CudaUnavailable: a GPU is asked for, and there is none.
    """
    _check_device(device)
    able = layout.architecture.engines
    if not layout.architecture.layers:
        return ENGINES[able[0]]
    if engine == "auto":
        engine = _fastest(layout, [activation], device)
    if engine not in able:
        raise InvalidArgument(f"unknown engine {engine!r}; known: auto, {', '.join(able)}")
    return ENGINES[engine]


def _fastest(
    layout: Layout, activations: Sequence[str], device: str | None, *, dropout: bool = False
) -> str:
    """Return the name of the fastest engine that can run here, whose kernel has been built."""
    if device is not None and torch.device(device).type == "cuda":
        try:
            check_cuda(layout, activations, device)
            load_cuda(layout, activations[0], dropout, torch.device(device))
        except CudaUnavailable as error:
            warnings.warn(
                SlowEngineWarning(f"{error}: using the engine batched, which is slower"),
                stacklevel=4,
            )
            return "batched"
        return "cuda"
    try:
        return "lanes" if lanes_are_faster(layout, activations[0]) else "batched"
    except LanesUnavailable:
        return "batched"
