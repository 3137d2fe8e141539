"""How many bytes each way to stream reads, counted by a server on loopback.

The repository holds one zoo of ResNet-18: one model, ten states of 45 MB, each a row group. A
server that speaks the Hub's protocol (tests/hub_server.py, so a checkout is needed) counts the
bodies of its answers; every call is made in a process with datasets and huggingface_hub as they are
(plain HTTP; for Xet no figures could be obtained). Bytes do not depend on the machine, but somewhat
on the order in which pyarrow's threads read, and for a first row on how much is read ahead.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ...builders.catalog import get_zoo
from ...builders.hub.build import build_folder
from ...builders.schema import METRICS
from ...builders.zoo_directory import create_zoo

REPOSITORY, ZOO = "ORG/model_zoos", "cifar10_resnet18"

_METRICS = 'columns=["epoch", "test_acc"]'
_LAST = 'filters=[("epoch", "==", 50)]'
_SMALL = 'storage_options={"hf": {"block_size": 65536}}'
_HUB = f'load_dataset("{REPOSITORY}", "{ZOO}", split="train", streaming=True'
_OURS = f'load_dataset("model_zoos", "{ZOO}", split="train", streaming=True, repo="{REPOSITORY}"'

_EVERY = f'load_dataset("{REPOSITORY}", "metrics", split="train", streaming=True'

CALLS: dict[str, str] = {
    "metrics of all zoos": f"{_EVERY})",
    "metrics of one zoo": f"{_HUB}, {_METRICS})",
    "metrics of one zoo, small blocks": f"{_HUB}, {_METRICS}, {_SMALL})",
    "first row": f"{_HUB})",
    "first row, reshard": f"{_HUB}).reshard()",
    "first row, reshard, small blocks": f"{_HUB}, {_SMALL}).reshard()",
    "rows of epoch 50": f"{_HUB}, {_LAST})",
    "rows of epoch 50, small blocks": f"{_HUB}, {_LAST}, {_SMALL})",
    "all rows": f"{_HUB})",
    "all rows, reshard, small blocks": f"{_HUB}, {_SMALL}).reshard()",
    "model_zoos: metrics of one zoo": f"{_OURS}, {_METRICS})",
    "model_zoos: first row": f"{_OURS})",
    "model_zoos: rows of epoch 50": f"{_OURS}, {_LAST})",
    "model_zoos: all rows": f"{_OURS})",
}
"""What is read -> the call. "small blocks" stands for storage_options with block_size=65536."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What one call cost.

    Attributes:
        name: of `CALLS`.
        call: as a user writes it.
        rows: that it gave.
        requests: for bytes of data files.
        bytes: of all answers, listings and card included.
    """

    name: str
    call: str
    rows: int
    requests: int
    bytes: int


def measure(states: int = 10) -> dict[str, Any]:
    """Bytes of every call.

    Args:
        states: of the zoo, 45 MB each; the last is that of epoch 50.

    Returns:
        `file_bytes` and `row_group_bytes` (the largest) of the zoo's file, `readings`.

    Raises:
        RuntimeError: there is no checkout around this package.
    """
    try:
        from tests.hub_server import Client, Hub
    except ImportError:
        raise RuntimeError("the server lies in tests/: run this at the top of a checkout") from None
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        directory = create_zoo(folder / "zoos", get_zoo(ZOO), engine="random values")
        generator = np.random.default_rng(0)
        epochs = np.arange(50 - states + 1, 51)
        model = directory.zoo.models(1)[0]
        directory.write_model(
            model.model_id,
            model.hyperparameters(),
            epochs,
            generator.standard_normal((states, directory.zoo.layout.size), np.float32) / 50,
            {name: generator.random(states) for name in METRICS[:6]},
        )
        build_folder([ZOO], folder / "zoos", folder / "built")
        paths = sorted((folder / "built" / "data").rglob("*.parquet"))
        footers = [pq.read_metadata(path) for path in paths]
        with Hub(folder / "hub") as hub:
            for path in (folder / "built").rglob("*"):
                name = path.relative_to(folder / "built").as_posix()
                if path.is_file() and not name.startswith("."):
                    hub.put(REPOSITORY, {name: path.read_bytes()})
            with Client(hub.endpoint, folder / "client") as client:
                readings = [_read(hub, client, name) for name in CALLS]
        return {
            "states": states,
            "files": len(paths),
            "file_bytes": sum(path.stat().st_size for path in paths),
            "row_group_bytes": max(
                _compressed(footer.row_group(number))
                for footer in footers
                for number in range(footer.num_row_groups)
            ),
            "readings": [dataclasses.asdict(reading) for reading in readings],
        }


def _compressed(group: Any) -> int:
    return sum(group.column(number).total_compressed_size for number in range(group.num_columns))


def _read(hub: Any, client: Any, name: str) -> Reading:
    call = CALLS[name]
    before = len(hub.requests)
    rows = client.run(
        "from datasets import load_dataset\n"
        + ("import model_zoos\n" if "model_zoos: " in name else "")
        + f"stream = {call}.with_format('arrow').iter(1)\n"
        + ("result = len(next(stream))" if "first" in name else "result = sum(map(len, stream))")
    )
    if "first" in name:
        time.sleep(2)  # what is read ahead counts too
    data = [request for request in hub.requests[before:] if "/objects/" in request.path]
    return Reading(name, call, rows, len(data), hub.sent(before))


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| what | rows | requests | bytes | row groups |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for reading in figures["readings"]:
        groups = reading["bytes"] / figures["row_group_bytes"]
        line = "| {name} | {rows} | {requests} | {bytes:,} |".format(**reading)
        lines.append(f"{line} {groups:.3f} |")
    return "\n".join(lines)
