"""Kill commands at random moments until one gets to its end, and compare what they leave.

    python -m tests.kills --seed 1 --kills 100 [--only import]

A command (import, build, publish, free: publishing that frees the local files) is run once without
a disturbance. Then it is run again and again in a new folder: killed by SIGKILL at a random moment,
and resumed, until it ends by itself. All that it leaves must be byte-identical, and after each kill
no model may be lost. The exit status is 1 otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.manifest import MANIFEST
from tests.builders.hub import small_states, test_freeing
from tests.builders.hub.folders import ME
from tests.hostile import trial_files
from tests.hub_server import Client, Hub
from tests.zoos import random_zoo

Result = Mapping[str, str]


def digests(folder: Path) -> Result:
    """SHA-256 of each file of a folder, without locks, manifests and files of unfinished work."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in (".lock", ".train.lock", MANIFEST)
        and path.suffix != ".partial"
        and ".build" not in path.parts
    }


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, given the folder that it writes.

    Attributes:
        arguments: arguments of Python.
        result: what the command leaves.
        prepare: makes what the folder has to hold before.
        lost: models that are lost, at any time.
    """

    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], Result]
    prepare: Callable[[Path], object] = lambda out: None
    lost: Callable[[Path], list[str]] = lambda out: []


def start(arguments: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def commands(folder: Path, hub: Hub) -> dict[str, Command]:
    """The commands, with what they read in a folder."""
    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=30)
    random_zoo(folder / "zoos", zoo, 60)
    trials = trial_files()
    source = folder / "source"
    for number in range(150):
        for name, content in trials.items():
            if "_00000_0_" in name:
                path = source / name.replace("_00000_0_", f"_{number:05d}_{number}_")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    built = folder / "built"
    command = ["-m", "model_zoos"]
    build = [
        *command,
        "build",
        "digits_cnn_s",
        "--data-dir",
        str(folder / "zoos"),
        "--quiet",
        "--out",
    ]
    assert start([*build, str(built)], {}).wait() == 0
    return {
        "import": Command(
            lambda out: [
                *command,
                "import",
                str(source),
                "--zoo",
                "own",
                "--quiet",
                "--out",
                str(out),
            ],
            digests,
        ),
        "build": Command(lambda out: [*build, str(out)], digests),
        "publish": Command(
            lambda out: [*command, "publish", f"{ME}-{out.name}", "--quiet", "--from", str(built)],
            lambda out: published(hub, f"{ME}-{out.name}"),
        ),
        "free": freeing(folder, hub),
    }


def published(hub: Hub, repo_id: str) -> Result:
    """The files of a repository but for the card, which names the repository."""
    return {path: blob for path, blob in hub.content(repo_id).items() if path != "README.md"}


def freeing(folder: Path, hub: Hub) -> Command:
    """Publishing of a small zoo, whose local files are deleted."""
    small_states.register()
    original = folder / "original"
    small_states.make(original)
    names = sorted(path.name for path in (original / small_states.NAME / "models").iterdir())
    expected = {name: small_states.weights_of(original, name) for name in names}

    def case(out: Path) -> test_freeing.Case:
        writer = cast(Client, None)  # the command is the writer
        return test_freeing.Case(hub, writer, out, f"me/{out.name}", names, expected)

    def arguments(out: Path) -> list[str]:
        values = {"home": str(out), "repo_id": f"me/{out.name}", "free": True}
        return [
            "-c",
            "".join(f"{name} = {value!r}\n" for name, value in values.items()) + test_freeing.PUSH,
        ]

    return Command(
        arguments,
        lambda out: {**published(hub, f"me/{out.name}"), "here": ", ".join(case(out).here())},
        prepare=lambda out: shutil.copytree(original, out),
        lost=lambda out: case(out).lost(),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--only", help="one of the commands")
    options = parser.parse_args()
    chance, bad = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as name, Hub(Path(name) / "hub") as hub:
        folder = Path(name)
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "any", "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "0"}
        for kind, command in commands(folder, hub).items():
            if options.only not in (None, kind):
                continue
            whole = folder / f"{kind}-whole"
            began = time.monotonic()
            command.prepare(whole)
            process = start(command.arguments(whole), environment)
            _, error = process.communicate()
            assert process.returncode == 0, error.decode()
            seconds, expected = time.monotonic() - began, command.result(whole)
            assert expected
            kills = runs = 0
            while kills < options.kills:
                out = folder / f"{kind}-{runs}"
                runs += 1
                command.prepare(out)
                while True:
                    process = start(command.arguments(out), environment)
                    try:
                        _, error = process.communicate(
                            timeout=seconds * chance.uniform(0.3, 1.0 + 0.1 * (kills > 0))
                        )
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGKILL)
                        process.communicate()
                        kills += 1
                        if lost := command.lost(out):
                            bad += 1
                            print(f"{kind}: a kill lost {lost}", flush=True)
                        continue
                    break
                found = command.result(out)
                if process.returncode or found != expected:
                    bad += 1
                    names = sorted({name for name, _ in found.items() ^ expected.items()})
                    print(f"{kind}: run {runs} ended with {process.returncode}; unlike: {names}")
                    print(error.decode()[-300:], flush=True)
                shutil.rmtree(out, ignore_errors=True)
            print(f"{kind}: {kills} kills in {runs} runs, {bad} with other bytes", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
