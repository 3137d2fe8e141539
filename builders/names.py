"""Names of zoos: how they are spelt, which cannot be given, and those of twins."""

from __future__ import annotations

import os
import re

from ..errors import InvalidArgument

METRICS_NAME = "metrics"
"""Name of the data set with every state of every zoo, without the weights."""


def normalize_name(name: str) -> str:
    """Spell a name as the catalog does: underscores for hyphens, and small letters.

    An absolute path, which is no name, stays as it is for the message that says so.
    """
    return name if os.path.isabs(name) else name.strip().replace("-", "_").lower()


def is_zoo_name(name: str) -> bool:
    """Whether a zoo and its folder can have this name."""
    plain = name.replace("_", "")
    return name == normalize_name(name) and plain.isalnum() and plain.isascii()


RESERVED_NAMES = {
    "default": "datasets takes the config of this name for the one that is loaded without a name",
    "metrics": "in every repository, the config of this name has the states of all zoos",
}
"""Names that no new zoo can have, and why."""


def refuse_reserved(name: str) -> None:
    """Refuse a reserved name for a new zoo; a zoo on disk that has one can still be read.

    Raises:
        InvalidArgument: with the reason.
    """
    if name in RESERVED_NAMES:
        raise InvalidArgument(
            f"a zoo cannot be named {name!r}: {RESERVED_NAMES[name]}. Choose another name"
        )


def twin_name(name: str) -> str:
    """Return the name of the sparse twins of a zoo or union."""
    return f"{name}_sparse"


def dense_name(name: str) -> str:
    """Return the dense zoo or union of a twin zoo made by either method, or a dense one itself."""
    return re.sub(r"_sparse(_magnitude)?\Z", "", name)
