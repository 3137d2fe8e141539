"""python -m model_zoos.benchmarks.speed COMMAND

Measure the project's speed. Compare ratios: absolute figures depend on the machine.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Optional, get_type_hints

import typer

from . import (
    building,
    generation,
    growth,
    importing,
    large,
    loading,
    networks,
    prediction,
    resnet,
    resources,
    small_cnn_zoo,
    streaming,
    weight_space,
)
from .measure import listing, machine

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)

Out = Annotated[Optional[Path], typer.Option(help="JSON file to write.")]


def _command(
    measure: Callable[..., Any],
    table: Callable[[Any], str],
    faults: Callable[[Any], Iterable[str]],
) -> Callable[..., None]:
    """Return a command that measures, prints the table and writes the figures to `--out`.

    It fails if `faults` finds any fault in the figures.
    """

    @functools.wraps(measure)
    def command(*, out: Path | None = None, **options: object) -> None:
        figures = measure(**options)
        print(table(figures))
        found = list(faults(figures))  # which may compare them with those that `out` holds
        if out is not None:
            content = {"machine": machine(), "results": figures}
            out.write_text(json.dumps(content, indent=1) + "\n")
        for fault in found:
            typer.echo(f"Error: {fault}", err=True)
        if found:
            raise typer.Exit(1)

    hints = {**get_type_hints(measure, include_extras=True), "out": Out}
    parameters = [*inspect.signature(measure).parameters.values()]
    parameters.append(inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None))
    command.__annotations__ = hints
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]
    )
    return command


_MODULES = (
    loading,
    generation,
    growth,
    networks,
    importing,
    large,
    small_cnn_zoo,
    building,
    streaming,
    prediction,
    resnet,
    resources,
    weight_space,
)
for module in _MODULES:
    summary = (module.__doc__ or "").split("\n\n")[0]
    name = module.__name__.rpartition(".")[2]
    app.command(name, help=summary)(
        _command(
            module.measure,
            getattr(module, "table", listing),
            getattr(module, "faults", lambda figures: ()),
        )
    )

app()
