"""Errors: their bases, hints, and the way through a pickle."""

from __future__ import annotations

import builtins
import pickle
import sys
import traceback

import pytest

from model_zoos import errors

CLASSES = [
    value
    for name, value in vars(errors).items()
    if isinstance(value, type) and not name.startswith("_")
]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_is_built_in_too_and_survives_a_process_boundary(
    kind: type[errors.ModelZoosError | errors.ModelZoosWarning],
) -> None:
    assert issubclass(kind, errors.ModelZoosError | errors.ModelZoosWarning)
    assert kind.__doc__
    if kind not in (errors.ModelZoosError, errors.Cancelled):
        assert any(
            base is not Exception and getattr(builtins, base.__name__, None) is base
            for base in kind.__mro__[:-3]
        )
    for hint in (None, "model-zoos list"):
        error = kind("what is wrong", hint=hint)
        for copy in (error, pickle.loads(pickle.dumps(error))):
            assert type(copy) is kind
            assert (str(copy), copy.args, copy.hint) == ("what is wrong", ("what is wrong",), hint)
    assert kind("without").hint is None
    traced = "".join(traceback.format_exception(kind("what is wrong", hint="model-zoos list")))
    assert "in a shell: model-zoos list" in traced or sys.version_info < (3, 11)


def test_an_error_of_the_system_keeps_its_parts() -> None:
    error = errors.HubFailed(2, "no such file", "a.txt")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.errno, copy.strerror, copy.filename, copy.hint) == (
        2,
        "no such file",
        "a.txt",
        None,
    )
