"""The table of engines, and how one is chosen."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator

import torch

from ...builders.specification import Model, Zoo
from ...builders.zoo_directory import open_zoo
from ...errors import SlowEngineWarning, ZooNotFound
from ..job import Outcome, _Work
from .blocks import _train_batched, _train_lanes
from .lanes import LanesUnavailable, lanes_count
from .reference_pool import _train_reference
from .resnet_run import _train_resnet


def check_training(zoo: Zoo, engine: str, threads: int | None, device: str | None) -> None:
    """Whether models of such a zoo can be trained with these arguments.

    Raises:
        ValueError: as `generate`.
    """
    engines = zoo.layout.architecture.engines
    if engine not in (*engines, "auto"):
        raise ValueError(
            f"unknown engine {engine!r} for {zoo.layout.architecture.title}; "
            f"known: auto, {', '.join(engines)}"
        )
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', found {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch finds no CUDA device here")
    if threads is not None and threads < 1:
        raise ValueError(f"the number of threads must be at least 1, found {threads}")


def choose_engine(
    zoo: Zoo, root: str | os.PathLike[str], engine: str, device: str | None, lanes: bool = True
) -> tuple[str, str]:
    """The engine and device for "auto" and None; arguments as of `generate`.

    Args:
        lanes: whether the lane kernel can do what is asked for.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    engines = zoo.layout.architecture.engines
    if engine == "auto" and len(engines) == 1:
        engine = engines[0]
    if engine == "auto":
        try:
            begun = open_zoo(root, zoo.name).info.get("engine")
        except ZooNotFound:
            begun = None
        if begun in engines:
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


_TRAINERS: dict[str, Callable[[_Work, list[Model]], Iterator[Outcome]]] = {
    "lanes": _train_lanes,
    "batched": _train_batched,
    "reference": _train_reference,
    "resnet": _train_resnet,
}
