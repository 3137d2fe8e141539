"""Options that several commands share, and the parsing of those that are lists in one word."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ..builders.machine import cores
from ..errors import InvalidArgument


def flag(*names: str, help: str, **more: Any) -> Any:  # noqa: ANN401
    """Return an option that takes no value; the help shows no placeholder for one."""
    return typer.Option(*names, help=help, metavar="", **more)


def home_expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose paths can start with `~`, which no shell expands in `--out=~/zoos`."""

    @functools.wraps(command)
    def run(*args: object, **options: object) -> None:
        command(*args, **{name: _expanded(value) for name, value in options.items()})

    return run


def _expanded(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    return value.expanduser() if isinstance(value, Path) else value


Quiet = Annotated[bool, flag("--quiet", help="Show neither progress nor results.")]
AsJson = Annotated[bool, flag("--json", help="Print the result as JSON.")]
OutDir = Annotated[
    Optional[Path],
    typer.Option(
        help="Folder for zoo directories (else MODEL_ZOOS_HOME, else ./zoos); other commands "
        "call it --data-dir."
    ),
]
DataDir = Annotated[
    Optional[Path],
    typer.Option(help="Folder of zoo directories (else MODEL_ZOOS_HOME, else ./zoos)."),
]
MaxWeight = Annotated[
    Optional[float],
    typer.Option(help="Leave out states with a larger weight; the paper's data sets use 5."),
]
Workers = Annotated[
    Optional[int], typer.Option(help="Number of processes; chosen by the work if not given.")
]
RankIndex = Annotated[
    Optional[int],
    typer.Option(
        "--rank", help="Do only the part of this rank, from 0; torchrun and accelerate set it."
    ),
]
RankCount = Annotated[
    Optional[int], typer.Option("--ranks", help="With --rank: how many ranks share the work.")
]
JoinedRanks = Annotated[
    Optional[int],
    typer.Option(
        "--ranks",
        help="With --rank: how many ranks share the work. Without it: join what that many ranks "
        "found.",
    ),
]
Engine = Annotated[str, typer.Option(help="auto; for CNNs also lanes, cuda, batched or reference.")]


def _capped(threads: int | None) -> int | None:
    """Return a number of threads that this process can use; print a line if it was reduced."""
    if threads is None or threads <= cores():
        return threads
    print(f"using {cores()} threads, one for each core, not {threads}", file=sys.stderr)
    return cores()


ThreadCount = Annotated[
    Optional[int], typer.Option(help="Cores to use; all if not given.", callback=_capped)
]
Device = Annotated[
    Optional[str], typer.Option(help="cpu or cuda; lanes and reference run on a CPU.")
]
ImagesDir = Annotated[
    Optional[Path],
    typer.Option(help="Folder of image files (else MODEL_ZOOS_IMAGES, else ./images)."),
]
DownloadImages = Annotated[bool, flag("--download", help="Download missing images.")]
AllowUnverified = Annotated[
    bool, flag("--allow-unverified", help="Accept images with another checksum.")
]
ZooName = Annotated[str, typer.Argument(help="A zoo, union or twin zoo.")]


def parse_epochs(option: str, text: str | None) -> list[int] | None:
    """Return the epochs of an option such as `--keep-epochs 1,10,50`; None if it is not given.

    Raises:
        InvalidArgument: `text` is not a list of whole numbers.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidArgument(f"{option} takes numbers such as 1,10,50, found {text!r}") from None


def parse_pairs(option: str, pairs: Sequence[str] | None) -> dict[str, str]:
    """Return the pairs of a repeatable option such as `--rename acc=test_acc`.

    Raises:
        InvalidArgument: one of them is not a pair, or a name is repeated.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, sign, value = pair.partition("=")
        if not sign or not name or not value or name in found:
            raise InvalidArgument(f"{option} takes NAME=VALUE, once for a name, found {pair!r:.80}")
        found[name] = value
    return found


def parse_seed(text: str) -> int | str:
    """Return the seed of `--seed`: a number, "first" or "parent".

    Raises:
        InvalidArgument: `text` is none of these.
    """
    if text in ("first", "parent"):
        return text
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(
            f"--seed must be a number, 'first' or 'parent', found {text!r}"
        ) from None
