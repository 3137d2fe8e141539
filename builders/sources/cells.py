"""Convert cells of other people's tables to numbers, texts and hyperparameters of our rows.

An empty cell is a value that was not measured or is not known. A cell whose value is impossible for
its column is an error, and its row's state is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ...errors import Unreadable
from ..hyperparameters import ACTIVATIONS
from ..specification import HYPERPARAMETER_CHECKS
from ..zoo_directory import SOURCE_COLUMNS
from .archive import shown
from .found import HYPERPARAMETER_KINDS
from .report import whole

TENSORFLOW_INITS = {
    "glorot_normal": "xavier_normal",
    "glorot_uniform": "xavier_uniform",
    "he_normal": "kaiming_normal",
    "he_uniform": "kaiming_uniform",
    "RandomNormal": "normal",
    "TruncatedNormal": "trunc_normal",
    "truncated_normal": "trunc_normal",
}
"""Initialisation of TensorFlow -> torch's name for the one of the same variance. TensorFlow's
normal distributions are truncated."""

_NO_VALUE = ("none", "null", "nan")
"""Texts for a missing value, in lower case."""

_OUR_WORDS: Mapping[str, Mapping[str, str]] = {
    "activation": {kind.lower(): name for name, kind in ACTIVATIONS.items()} | {"swish": "silu"},
    "init": {theirs.lower(): ours for theirs, ours in TENSORFLOW_INITS.items()},
}
"""Hyperparameter -> word of torch.nn or of TensorFlow, in lower case -> our word."""

CAN_BE_NULL = ("optimizer", "init")
"""Hyperparameters that a network can run without; rows have null for values unknown to us."""


def cell_hyperparameters(
    values: Mapping[str, object], others: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return the hyperparameters among some values; None for empty cells.

    Args:
        values: the values of a row.
        others: receives values of `CAN_BE_NULL` that our rows cannot have; None to refuse them.
    """
    found: dict[str, Any] = {}
    for name in HYPERPARAMETER_KINDS.keys() & values.keys():
        kind, possible = HYPERPARAMETER_KINDS[name]
        cell = None if _stands_for_none(values[name]) else values[name]
        value: Any
        if kind is str:
            value = cell_text(cell)
            if value is not None and not possible(value):
                value = _our_word(name, value)
        else:
            value = cell_number(name, cell, "hyperparameters")
            if kind is int and value is not None:
                value = _exactly(cell, value)
                if value is None:
                    raise Unreadable(
                        f"wrong hyperparameters: {name} is {shown(cell)}, no whole number"
                    )
        if value is not None and not possible(value):
            if name in CAN_BE_NULL and others is not None:
                others[name] = str(cell)
                found[name] = None
                continue
            _, expected = HYPERPARAMETER_CHECKS.get(name, (None, "in the range of its column"))
            raise Unreadable(f"wrong hyperparameters: {name} is {shown(value)}, not {expected}")
        found[name] = value
    return found


def null_remark(name: str, texts: Iterable[str]) -> str:
    """Return the remark on a hyperparameter that is null because of such texts."""
    some = ", ".join(shown(text) for text in sorted(texts)[:3])
    return f"{name} is null where it is none of ours ({some}); {SOURCE_COLUMNS} has it"


def _our_word(name: str, text: str) -> str:
    """Return our word for a text such as "torch.optim.SGD", "nn.ReLU()" or "kaiming_normal_"."""
    plain = text.lower().removesuffix("()").rstrip("_").replace("-", "_")
    if "(" not in plain:
        plain = plain.rpartition(".")[2]
    return _OUR_WORDS.get(name, {}).get(plain, plain)


def cell_number(name: str, value: object, kind: str) -> float | None:
    """Return a cell as a number; None if it is empty."""
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool | list | dict):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(f"wrong {kind}: {name} is {shown(value)}, no number") from None


def _stands_for_none(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in _NO_VALUE


def _exactly(value: object, number: float) -> int | None:
    """Return a cell's number exactly, as an integer; None if it is not an integer."""
    if isinstance(value, str | int):
        with suppress(ValueError):  # a text such as 1.0 or 1e3
            return int(value)
    return whole(number)


def cell_text(value: object) -> str | None:
    """Return a cell as a text, stripped of spaces; None if it is empty."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = value if (number := whole(value)) is None else number
    if isinstance(value, list | dict):
        raise Unreadable(f"malformed: {shown(value)} where a text is expected")
    return None if value is None else str(value).strip() or None
