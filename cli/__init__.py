"""The command `model-zoos`. Its commands are in data.py, study.py and train.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer

from . import data, study, train
from .display import interruptible, plain_errors
from .options import flag, home_expanded

app = typer.Typer(
    help="Load, make and benchmark populations of neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS: dict[str, Callable[..., None]] = {
    "list": data.list_command,
    "info": data.info,
    "generate": train.generate,
    "sparsify": train.sparsify,
    "import": data.import_command,
    "download": data.download,
    "build": data.build,
    "benchmark": study.benchmark,
    "verify": study.verify,
    "evaluate": study.evaluate,
    "plot": study.plot,
    "report": study.report,
    "publish": data.publish,
}
for _name, _command in _COMMANDS.items():
    _words = {"allow_extra_args": _command is train.sparsify}  # `--sparsity 0.5 0.8`
    app.command(_name, context_settings=_words)(interruptible(home_expanded(_command)))


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        flag("--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command. Expected errors and warnings take a line or two, without a traceback."""
    # Threads of torch and LightGBM otherwise spin while they wait, which was ten times as slow
    # beside other processes. The variable must be set before their OpenMP library is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with plain_errors():
        app(prog_name="model-zoos")
