"""Names of zoos: how they are spelt, which cannot be given, and those of twins."""

from __future__ import annotations

import os
import re

from ..errors import InvalidArgument

METRICS_NAME = "metrics"
"""Name of the data set with every state of every zoo, without the weights."""


def normalize_name(name: str) -> str:
    """Spell a name as in the catalog: with underscores for hyphens, in lower case.

    An absolute path, which is not a name, is unchanged so that the error message can show it.
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
    """Refuse a reserved name for a new zoo; an existing zoo with such a name can still be read.

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
    """Return the dense zoo or union of a twin zoo of either method; a dense name is unchanged."""
    return re.sub(r"_sparse(_magnitude)?\Z", "", name)


def refuse_twin_name(name: str) -> None:
    """Refuse the name of sparse twins for a zoo of dense models.

    Raises:
        InvalidArgument: with the reason.
    """
    if dense_name(name) != name:
        raise InvalidArgument(
            f"a zoo of dense models cannot be named {name!r}: such names are those of the sparse "
            f"twins of {dense_name(name)!r}. Choose another name"
        )
