"""How a run trains: engine, threads, device and so on, in records that check themselves.

Optimizers, schedules and rates are the models' own: builders/hyperparameters.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypeGuard

from ..builders.architecture import ARCHITECTURES
from ..builders.catalog import TWIN_EPOCHS
from ..builders.specification import Zoo
from ..errors import InvalidArgument

PRECISIONS = ("fp32", "bf16")
"""Precisions of products and convolutions in training. Weights, their gradients and evaluation are
float32."""

METHODS = ("variational", "magnitude")
"""Methods that make sparse twins (sparsify.py)."""

LEVELS = (0.5, 0.8, 0.9)
"""Shares of weights that magnitude pruning prunes by default."""


def check_count(things: str, number: object) -> None:
    """Refuse a number of things that is not a whole number of at least 1; None means a default.

    Raises:
        InvalidArgument: it is something else.
    """
    if number is not None and not (_is_whole(number) and number >= 1):
        raise InvalidArgument(
            f"the number of {things} must be a whole number from 1 on, found {number!r:.60}"
        )


def _is_whole(number: object) -> TypeGuard[int]:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _listed(numbers: object) -> str:
    """Return a list as it is typed after `--keep-epochs`; any other value as in Python."""
    if isinstance(numbers, str) or not isinstance(numbers, Sequence):
        return f"{numbers!r:.60}"
    return ", ".join(map(str, numbers)) or "none"


def _increasing(numbers: object) -> bool:
    """Whether this is a list of increasing whole numbers of at least 1."""
    return (
        isinstance(numbers, Sequence)
        and bool(numbers)
        and all(map(_is_whole, numbers))
        and numbers[0] >= 1
        and list(numbers) == sorted(set(numbers))
    )


@dataclass(frozen=True)
class TrainOptions:
    """How models are trained.

    Attributes:
        engine: name of an engine (engines.ENGINES), or "auto": the one with which the zoo was
            begun. For a new zoo this is, on a GPU, cuda, or batched if cuda cannot run; on a CPU
            lanes, or batched if lanes are not faster or, with a warning, cannot run.
        threads: number of cores to use; None for all that this rank may use.
        device: "cpu" or "cuda"; None for CUDA if it is available. Lanes and reference always run on
            the CPU.
        precision: "fp32" or "bf16", for models with one file per state (ResNet-18); None for that
            with which a zoo was begun, else bf16 on a GPU and fp32 on a CPU.
        compile: whether to train such models with torch.compile.
        keep_epochs: for such models, the epochs to write, increasing from 1; None for those with
            which a zoo was begun, else all. Training ends with the last of them.

    Raises:
        InvalidArgument: an unknown name, a number out of range, or a missing device.
    """

    engine: str = "auto"
    threads: int | None = None
    device: str | None = None
    precision: str | None = None
    compile: bool = False
    keep_epochs: Sequence[int] | None = None

    def __post_init__(self) -> None:
        engines = {name: None for a in ARCHITECTURES.values() for name in a.engines}
        if self.engine not in ("auto", *engines):
            raise InvalidArgument(
                f"unknown engine {self.engine!r}; known: auto, {', '.join(engines)}"
            )
        check_count("threads", self.threads)
        if self.device not in (None, "cpu", "cuda"):
            raise InvalidArgument(f"device must be 'cpu' or 'cuda', found {self.device!r}")
        if self.device == "cuda":
            import torch

            if not torch.cuda.is_available():
                raise InvalidArgument(
                    "device 'cuda' was asked for, but torch finds no CUDA device here"
                )
        if self.precision not in (None, *PRECISIONS):
            raise InvalidArgument(
                f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}"
            )
        if not isinstance(self.compile, bool):
            raise InvalidArgument(f"compile must be True or False, found {self.compile!r:.60}")
        if self.keep_epochs is not None and not _increasing(self.keep_epochs):
            raise InvalidArgument(
                "epochs to keep are increasing whole numbers from 1 on, "
                f"found {_listed(self.keep_epochs)}"
            )

    @property
    def chosen_device(self) -> str:
        """The device of a run: the one asked for, else CUDA if there is one."""
        if self.device is not None:
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def check(self, zoo: Zoo) -> None:
        """Check that the options fit a zoo.

        Raises:
            InvalidArgument: the zoo's architecture lacks the engine or another option, or epochs to
                keep are beyond its last.
        """
        architecture = zoo.layout.architecture
        if self.engine not in ("auto", *architecture.engines):
            raise InvalidArgument(
                f"unknown engine {self.engine!r} for {architecture.title}; "
                f"known: auto, {', '.join(architecture.engines)}"
            )
        names = ("precision", "compile", "keep_epochs")
        special = [name for name in names if getattr(self, name)]
        if special and not architecture.file_per_state:
            able = [a.title for a in ARCHITECTURES.values() if a.file_per_state]
            flags = [f"--{name.replace('_', '-')}" for name in special]
            raise InvalidArgument(
                f"{' and '.join(f'{name}=' for name in special)} can be set for "
                f"{' and '.join(able)} only, and {zoo.name} is a zoo of {architecture.title}",
                hint=f"leave out {' and '.join(flags)}",
            )
        if self.keep_epochs is not None and self.keep_epochs[-1] > zoo.epochs:
            raise InvalidArgument(
                f"epochs to keep are increasing numbers from 1 to {zoo.epochs}, "
                f"found {_listed(self.keep_epochs)}"
            )


@dataclass(frozen=True)
class TwinOptions:
    """How sparse twins are made.

    Attributes:
        method: one of `METHODS`.
        levels: shares of weights that magnitude pruning prunes, each in (0, 1) with at most six
            digits. They are kept as a tuple of floats.
        epochs: number of epochs of every twin.
        seed: a number for all twins; "first" for that of the zoo's first model, as in the
            paper's code; or "parent" to give each twin its parent's.

    Raises:
        InvalidArgument: an unknown method, or a level, seed or number out of range.
    """

    method: str = "variational"
    levels: Sequence[float] = LEVELS
    epochs: int = TWIN_EPOCHS
    seed: int | str = "first"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidArgument(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        object.__setattr__(self, "levels", _numbers(self.levels))
        if self.method == "magnitude":
            _check_levels(self.levels)
        check_count("epochs", self.epochs)
        if self.epochs is None:
            raise InvalidArgument("the number of epochs of twins must be given, found None")
        object.__setattr__(self, "epochs", int(self.epochs))
        if _is_whole(self.seed) and -(2**63) <= self.seed < 2**63:
            object.__setattr__(self, "seed", int(self.seed))
        elif not (isinstance(self.seed, str) and self.seed in ("first", "parent")):
            raise InvalidArgument(
                "seed must be a whole number of 64 bits, 'first' or 'parent', "
                f"found {self.seed!r:.60}"
            )


def _numbers(levels: object) -> tuple[float, ...]:
    """Return levels of sparsity as floats.

    Raises:
        InvalidArgument: they are no numbers, or no list of them.
    """
    listed = list(levels) if isinstance(levels, Iterable) and not isinstance(levels, str) else None
    if listed is None or not all(
        isinstance(level, Real) and not isinstance(level, bool) for level in listed
    ):
        found = levels if listed is None else listed
        raise InvalidArgument(
            f"levels of sparsity must be a list of numbers such as [0.5, 0.8], found {found!r:.60}"
        )
    return tuple(map(float, listed))


def _check_levels(levels: Sequence[float]) -> None:
    """Refuse levels of sparsity that magnitude pruning cannot have.

    Raises:
        InvalidArgument: with the levels.
    """
    if not (levels and all(0 < level < 1 for level in levels)):
        raise InvalidArgument(f"sparsity must lie between 0 and 1, found {list(levels)}")
    # The ids of twins name the level so: two levels must never have one id, in any two runs.
    if long := [level for level in levels if float(f"{level:g}") != level]:
        raise InvalidArgument(
            f"levels of sparsity have at most six digits, as the ids of twins do: found {long[0]}, "
            f"write {long[0]:g}"
        )
    if len(set(levels)) < len(levels):
        raise InvalidArgument(f"levels of sparsity must differ, found {list(levels)}")
