"""Checks of arguments and of the keys of JSON objects, whose errors say what was expected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from ..errors import InvalidArgument, did_you_mean

Check = tuple[Callable[[Any], bool], str]

_SHOWN = 5
"""Maximum number of unknown keys that a message names."""


def check_kind(value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Refuse an argument of another type.

    Args:
        value: the argument.
        kind: the types that it may have.
        expected: what the argument must be, as the beginning of a sentence.

    Raises:
        InvalidArgument: it has another type.
    """
    if not isinstance(value, kind):
        raise InvalidArgument(f"{expected}, found {type(value).__name__}")


def require(name: str, value: object, check: Check) -> None:
    """Refuse a value that does not pass its check.

    Raises:
        InvalidArgument: with the name, what was expected and what was found.
    """
    good, expected = check
    if not good(value):
        raise InvalidArgument(f"{name} must be {expected}, found {value!r:.80}")


def wrong_keys(found: Iterable[str], known: Collection[str], required: Collection[str]) -> str:
    """Name the missing and the unknown keys, with similar known ones; "" if there are none."""
    keys = list(map(str, found))
    unknown = []
    for key in [key for key in keys if key not in known][:_SHOWN]:
        advice = did_you_mean(key, known)
        unknown.append(f"{key!r:.80}" + (f" ({advice})" if advice else ""))
    missing = [key for key in known if key in required and key not in keys]
    parts = {"missing": missing, "unknown": unknown}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
