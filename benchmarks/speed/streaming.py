"""Bytes read by each way of streaming, counted by a server on loopback.

The repository holds one zoo of ResNet-18: one model, twelve states of 45 MB, each a row group. A
server with the protocol of the Hub (tests/hub_server.py) counts the bodies of its answers. Each
call runs in a process with unmodified datasets and huggingface_hub (plain HTTP; no figures could be
obtained for Xet). The bytes do not depend on the machine, but slightly on the order in which
pyarrow's threads read, and for a first row on how much is read ahead. For the zoo directory on this
machine, Linux counts the bytes that the process reads.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

from tests.hub_server import Client, Hub

from ...builders.catalog import zoo_spec
from ...builders.hub.build import build_folder
from ...builders.schema import METRICS
from ...builders.zoo_directory import create_zoo
from .measure import markdown

REPOSITORY, ZOO = "ORG/model_zoos", "cifar10_resnet18"

_METRICS = 'columns=["epoch", "test_acc"]'
_LAST = 'filters=[("epoch", "==", 50)]'
_SMALL = 'storage_options={"hf": {"block_size": 65536}}'
_EVERY = f'load_dataset("{REPOSITORY}", "metrics", split="train", streaming=True'
_HUB = f'load_dataset("{REPOSITORY}", "{ZOO}", split="train", streaming=True'
_OURS = f'load_dataset("model_zoos", "{ZOO}", split="train", streaming=True, repo="{REPOSITORY}"'
_LOCAL = f'load_dataset("model_zoos", "{ZOO}", split="train", streaming=True, data_dir="random"'
_TENSOR = 'tensors=["layer1.0.conv1.weight"]'

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
    "model_zoos: a tensor of all rows": f"{_OURS}, {_TENSOR})",
    "zoo directory: all rows": f"{_LOCAL})",
    "zoo directory: a tensor of all rows": f"{_LOCAL}, {_TENSOR})",
}
"""Name -> call. "small blocks" stands for storage_options with block_size=65536."""


def measure(
    states: Annotated[int, typer.Option(help="States of ResNet-18, 45 MB each.")] = 12,
) -> dict[str, Any]:
    """Return the sizes of files and of the largest row group, and the `readings` of `_read`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        directory = create_zoo(folder / "random", zoo_spec(ZOO), engine="random values")
        generator = np.random.default_rng(0)
        model = directory.zoo.models(1)[0]
        directory.write_model(
            model.model_id,
            model.hyperparameters(),
            np.arange(50 - states + 1, 51),
            generator.standard_normal((states, directory.zoo.layout.size), np.float32) / 50,
            {name: generator.random(states) for name in METRICS[:6]},
        )
        built = folder / "built"
        build_folder([ZOO], folder / "random", built)
        paths = sorted((built / "data").rglob("*.parquet"))
        groups = [
            footer.row_group(number)
            for footer in map(pq.read_metadata, paths)
            for number in range(footer.num_row_groups)
        ]
        with Hub(folder / "hub") as hub:
            for path in built.rglob("*"):
                name = path.relative_to(built).as_posix()
                if path.is_file() and not name.startswith("."):
                    hub.put(REPOSITORY, {name: path.read_bytes()})
            with Client(hub.endpoint, folder / "client") as client:
                client.run("import os; os.chdir(folder)", folder=str(folder))
                readings = [_read(hub, client, name) for name in CALLS]
        return {
            "states": states,
            "files": len(paths),
            "file_bytes": sum(path.stat().st_size for path in paths),
            "row_group_bytes": max(
                sum(
                    group.column(number).total_compressed_size
                    for number in range(group.num_columns)
                )
                for group in groups
            ),
            "readings": readings,
        }


def _read(hub: Hub, client: Client, name: str) -> dict[str, Any]:
    """Return the costs of one call.

    They are its `name` in `CALLS`, the `call`, the number of `rows`, the `requests` for bytes of
    data files, and the `bytes` of all answers, including listings and card; for a zoo directory,
    the bytes that the process reads.
    """
    call = CALLS[name]
    before, local = len(hub.requests), "zoo directory: " in name
    rows, read = client.run(
        "from pathlib import Path\nfrom datasets import load_dataset\n"
        + ("import model_zoos\n" if '"model_zoos", ' in call else "")
        + f"stream = {call}.with_format('arrow').iter(1)\n"
        + "bytes_read = lambda: int(Path('/proc/self/io').read_text().split()[1])\n"
        + ("before = bytes_read()\n" if local else "")
        + ("rows = len(next(stream))\n" if "first" in name else "rows = sum(map(len, stream))\n")
        + ("result = rows, bytes_read() - before" if local else "result = rows, 0")
    )
    if "first" in name:
        time.sleep(2)  # what is read ahead counts too
    data = [request for request in hub.requests[before:] if "/objects/" in request.path]
    sent = read if local else hub.sent(before)
    figures = {"rows": rows, "requests": len(data), "bytes": sent}
    return {"name": name, "call": call, **figures}


def table(figures: dict[str, Any]) -> str:
    """Return the figures as the Markdown table of the documentation."""
    rows = [
        (
            reading["name"],
            str(reading["rows"]),
            str(reading["requests"]),
            f"{reading['bytes']:,}",
            f"{reading['bytes'] / figures['row_group_bytes']:.3f}",
        )
        for reading in figures["readings"]
    ]
    return markdown(("what", "rows", "requests", "bytes", "row groups"), 1, rows)
