"""Functions of a user's module, named "module:function"."""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable
from typing import Any

from ..errors import InvalidArgument

_OURS = (os.path.dirname(__file__) + os.sep, importlib.__file__)
"""Beginnings of the paths of files that are not the user's."""


def find_function(what: str, name: str) -> Callable[..., Any]:
    """Import a function.

    Args:
        what: what the function is for, such as "representation", for messages.
        name: "module:function".

    Raises:
        InvalidArgument: the module cannot be imported, or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises
        raise InvalidArgument(
            f"{what} {name!r}: the module {module_name!r} cannot be imported "
            f"({type(error).__name__}: {error}){place_of(error)}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InvalidArgument(f"{what} {name!r}: {module_name} has no function {function_name!r}")
    found: Callable[..., Any] = function
    return found


def place_of(error: BaseException) -> str:
    """Return " at FILE:LINE", the last line that ran of the user's file; "" if none did."""
    ran = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(("<", *_OURS))  # "<" are importlib's own
    ]
    lines = [line for file, line in ran if file == ran[0][0]]
    return f" at {ran[0][0]}:{lines[-1]}" if ran else ""
