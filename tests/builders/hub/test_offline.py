"""Loads that the local cache answers while the Hub is out of reach, in processes of their own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model_zoos.builders.catalog import zoo_spec
from tests.builders.hub.folders import ME, write_folder
from tests.hub_server import WRITER, Client, Hub
from tests.zoos import random_zoo

LOAD = """
import json, sys, warnings
warnings.simplefilter("always")
from datasets import load_dataset
import model_zoos
found = {}
for number, question in enumerate(json.loads(sys.argv[1])):
    if "filters" in question:
        question["filters"] = [tuple(part) for part in question["filters"]]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            rows = load_dataset("model_zoos", **question)
            rows = {split: [len(part), str(part[0])[:200]] for split, part in rows.items()}
        except Exception as error:
            rows = f"{type(error).__name__}: {error}"
    messages = [str(w.message) for w in said if w.category.__name__ == "OfflineWarning"]
    found[number] = [rows, messages]
print(json.dumps(found))
"""

QUESTIONS: list[dict[str, Any]] = [
    {"name": "digits_cnn_s", "repo": ME},
    {"name": "digits_cnn_s", "repo": ME, "columns": ["model_id", "epoch"]},
    {"name": "metrics", "repo": ME, "filters": [["epoch", "==", 1]]},
    {"name": "digits_cnn_s", "repo": ME, "tensors": ["fc2.bias"]},
]
NEVER = [
    {"name": "digits_cnn_s", "repo": ME, "columns": ["epoch"]},
    {"name": "digits_cnn_s", "repo": ME, "tensors": ["conv1.bias"]},
    {"name": "digits_cnn_s", "repo": "me/other"},
    {"name": "digits_cnn_s", "repo": ME, "revision": "v2"},
    {"name": "digits_cnn_s", "repo": ME, "streaming": True},
]


@pytest.fixture(scope="module")
def published(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("zoos")
    random_zoo(root, dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=1), 7)
    folder = write_folder(tmp_path_factory.mktemp("folder"), root, ["digits_cnn_s"])
    paths = [path for path in folder.rglob("*") if path.is_file() and ".build" not in path.parts]
    hub.put(ME, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
    return ME


def ask(client: Client, questions: list[dict[str, Any]], **environment: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(questions)],
        env={**client.environment, **environment},
        cwd=client.log.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]).values())


WAYS = ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"})


def test_cached_rows_are_used_with_a_warning(hub: Hub, published: str, tmp_path: Path) -> None:
    with Client(hub.endpoint, tmp_path / "client", token=WRITER) as client:
        first = ask(client, QUESTIONS)
        assert all(isinstance(rows, dict) and not said for rows, said in first)
        before = len(hub.requests)
        for environment in WAYS:
            again = ask(client, [*QUESTIONS, *NEVER], **environment)
            for (rows, _), (cached, said) in zip(first, again, strict=False):
                assert cached == rows
                assert len(said) == 1
                assert "are taken from the cache" in said[0]
            for rows, _ in again[len(QUESTIONS) :]:
                assert rows.startswith("HubUnreachable: me/")
        assert len(hub.requests) == before


@pytest.mark.slow
def test_the_rows_of_the_last_load_are_used(hub: Hub, published: str, tmp_path: Path) -> None:
    """Not those of a commit that was seen, but not loaded."""
    with Client(hub.endpoint, tmp_path / "client", token=WRITER) as client:
        [first] = ask(client, QUESTIONS[:1])
        old = hub.repos[published].refs["main"]
        try:
            hub.put(published, {"figures/a.png": b"1"})
            streamed = [{**QUESTIONS[0], "streaming": True}]
            ask(client, streamed)
            [(rows, said)] = ask(client, QUESTIONS[:1], HF_HUB_OFFLINE="1")
        finally:
            hub.repos[published].refs["main"] = old
        assert rows == first[0]
        assert f"at {old[:8]} are taken from the cache" in said[0]
        for path in (tmp_path / "client").rglob(".offline/*.json"):
            path.write_text('{"config_id": "../..", "commit": 1, "weights": null}')
        [(rows, _)] = ask(client, QUESTIONS[:1], HF_HUB_OFFLINE="1")
        assert rows.startswith("HubUnreachable: me/")
