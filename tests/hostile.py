"""Feed hostile files to the package and count what happens.

    python -m tests.hostile --seed 1 --model-files 20000 --zips 5000 \\
        --directories 1000 --special 100

Every case is derived from the seed and its number alone, so that `--only KIND:NUMBER` repeats one.
Cases run in a child process. A case is good if the input is read, or refused by an error of
model_zoos.errors. It is a fault if another exception comes out, if it takes more than ten seconds,
if the child needs more than 500 MB more than before its first case, or if it dies. The exit status
is 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import pickle
import random
import shutil
import socket
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from model_zoos import errors
from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.zoo_directory import create_zoo, list_zoo_directories, open_zoo

SECONDS = 10.0
MEGABYTES = 500

DEEP = "[" * 50_000 + "]" * 50_000
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**20, 10**400, -(10**400),
    0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), "", " ", "a" * 10_000, "a" * 2_000_000,
    "\ud800", "\x00", "../../etc/passwd", "/dev/zero", "C:\\x", "é", "🦊" * 100, [], [[]], [1, 2],
    ["a"], {}, {"a": 1}, {"": None}, [None] * 1000, "1e400", "NaN",
]  # fmt: skip
"""Values put in place of others in JSON; None of them is one that every place accepts."""


def mutate_json(value: Any, rng: random.Random) -> Any:
    """A copy with one value, key or element changed, removed or repeated somewhere."""
    value = json.loads(json.dumps(value))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys: Any = node.keys() if isinstance(node, dict) else range(len(node))
        for key in list(keys):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(value)
    if not places or rng.random() < 0.05:
        return rng.choice(NASTY)
    node, key = rng.choice(places)
    what = rng.random()
    if what < 0.75:
        node[key] = rng.choice(NASTY)
    elif what < 0.85:
        del node[key]
    elif isinstance(node, dict):
        node[rng.choice(["", "weights", "epoch", "x" * 1000, "\ud800", "name"])] = node[key]
    else:
        node.append(node[key])
    return value


def dump(value: Any, rng: random.Random) -> bytes:
    """JSON as a hostile writer has it: bare NaN, lone surrogates, sometimes very deep."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7)
    if rng.random() < 0.03:
        text = text.replace("null", DEEP, 1) if "null" in text else DEEP
    return text.encode("utf-8", "surrogatepass")


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, cut out, inserted or repeated; headers more often than the rest."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        if not data:
            break
        end = len(data) if rng.random() < 0.4 else min(len(data), rng.choice([8, 64, 1024]))
        place = rng.randrange(end)
        what = rng.random()
        if what < 0.5:
            data[place] = rng.choice([0, 255, 127, 128, rng.randrange(256)])
        elif what < 0.65:
            del data[place : place + rng.choice([1, 8, 100, len(data)])]
        elif what < 0.8:
            data[place:place] = rng.randbytes(rng.choice([1, 8, 100]))
        else:
            number = rng.choice([0, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1])
            data[place : place + 8] = number.to_bytes(8, "little")
    return bytes(data)


# --- Inputs ---------------------------------------------------------------------------------------


def make_zoo(root: Path, models: int = 3, epochs: int = 3) -> Path:
    """A small zoo of random weights."""
    import dataclasses

    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=epochs)
    directory = create_zoo(root, zoo, engine="lanes", stream="philox")
    rng = np.random.default_rng(0)
    for model in zoo.models(models):
        weights = rng.normal(size=(epochs + 1, zoo.layout.size)).astype(np.float32)
        shares = np.linspace(0, 1, epochs + 1)
        names = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
        directory.write_model(
            model.model_id,
            model.hyperparameters(),
            range(epochs + 1),
            weights,
            dict.fromkeys(names, shares),
        )
    return directory.path


def trial_files() -> dict[str, bytes]:
    """Two trials of a raw zoo as ray tune writes them, made here."""
    import torch

    files: dict[str, bytes] = {}
    layout = zoo_spec("digits_cnn_s").layout
    for number in range(2):
        folder = f"run/NN_tune_trainable_{number:05d}_{number}_seed={number + 1}_2021-01-01"
        params = {
            "model::type": "CNN", "model::channels_in": 1, "model::o_dim": 10,
            "model::nlin": "tanh", "model::dropout": 0.0, "model::init_type": "uniform",
            "optim::optimizer": "adam", "optim::lr": 3e-4, "optim::wd": 0.0,
            "optim::momentum": 0.9, "seed": number + 1, "training::batchsize": 10,
            "training::epochs_train": 2, "dataset::dump": "/x/tune_zoo_mnist_uniform/dataset.pt",
        }  # fmt: skip
        files[f"{folder}/params.json"] = json.dumps(params).encode()
        lines = []
        for epoch in range(3):
            metrics = {"train_loss": 2.0, "train_acc": 0.5, "test_loss": 2.0, "test_acc": 0.5}
            lines.append(json.dumps({"training_iteration": epoch, **metrics}))
            vector = torch.linspace(-1, 1, layout.size)
            state = layout.to_state_dict(vector, original_names=True)
            buffer = io.BytesIO()
            torch.save({name: tensor.clone() for name, tensor in state.items()}, buffer)
            files[f"{folder}/checkpoint_{epoch:06d}/checkpoints"] = buffer.getvalue()
        files[f"{folder}/result.json"] = "\n".join(lines).encode()
    return files


# --- What is done with them -----------------------------------------------------------------------


def read_all(root: Path) -> None:
    """Everything a user does with a folder of zoos that needs no network and no training."""
    for name in list_zoo_directories(root):
        directory = open_zoo(root, name)
        good, _ = directory.scan()
        for states in good:
            states.weights()
        directory.by_split()
        load(root, name)


def load(root: Path, name: str) -> None:
    from datasets import load_dataset

    for split in ("train", "validation", "test"):
        try:
            stream = load_dataset(
                "model_zoos", name, data_dir=str(root), split=split, streaming=True
            )
        except ValueError as error:
            if "Bad split" in str(error):
                continue
            raise
        for _ in stream.with_format("arrow").iter(batch_size=1000):
            pass


class Cases:
    """Inputs of each kind; a case is a folder that is filled, and then used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.zoo = make_zoo(folder / "good")
        self.trials = trial_files()
        self.model_file = sorted((self.zoo / "models").glob("*.safetensors"))[0]

    def copy(self, root: Path) -> Path:
        path = root / self.zoo.name
        shutil.copytree(self.zoo, path)
        return path

    def model_files(self, root: Path, rng: random.Random) -> None:
        path = self.copy(root) / "models" / self.model_file.name
        content = path.read_bytes()
        if rng.random() < 0.5:
            path.write_bytes(mutate_bytes(content, rng))
        else:
            size = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + size])
            if rng.random() < 0.5:
                header = mutate_json(header, rng)
            else:
                about = json.loads(header["__metadata__"]["model_zoos"])
                header["__metadata__"]["model_zoos"] = dump(mutate_json(about, rng), rng).decode(
                    "utf-8", "surrogatepass"
                )
            new = dump(header, rng)
            path.write_bytes(len(new).to_bytes(8, "little") + new + content[8 + size :])
        read_all(root)

    def directories(self, root: Path, rng: random.Random) -> None:
        path = self.copy(root)
        name = rng.choice(["zoo.json", "zoo.json", "splits.json", "published.json"])
        file = path / name
        if name == "published.json":
            models = {p.stem: "here" for p in path.glob("models/*")}
            file.write_text(json.dumps({"repo_id": "a/b", "models": models}))
        content = file.read_bytes()
        if rng.random() < 0.2:
            file.write_bytes(mutate_bytes(content, rng))
        else:
            file.write_bytes(dump(mutate_json(json.loads(content), rng), rng))
        read_all(root)

    def zips(self, root: Path, rng: random.Random) -> None:
        from model_zoos.builders.sources.importing import import_zoo

        files = dict(self.trials)
        name = rng.choice(sorted(files))
        what = rng.random()
        if what < 0.25 and name.endswith("json"):
            lines = files[name].decode().split("\n")
            line = rng.randrange(len(lines))
            lines[line] = dump(mutate_json(json.loads(lines[line]), rng), rng).decode(
                "utf-8", "surrogatepass"
            )
            files[name] = "\n".join(lines).encode("utf-8", "surrogatepass")
        elif what < 0.5:
            files[name] = mutate_bytes(files[name], rng)
        elif what < 0.6:
            files[mutate_name(name, rng)] = files.pop(name)
        elif what < 0.7:
            files[name] = rng.choice(PICKLES)()
        buffer = io.BytesIO()
        method = rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for entry, content in files.items():
                archive.writestr(entry, content)
        content = buffer.getvalue()
        if what >= 0.7:
            tail = max(0, len(content) - rng.choice([22, 100, 2000]))
            content = content[:tail] + mutate_bytes(content[tail:], rng)
        source = root / "source.zip"
        source.write_bytes(content)
        import_zoo(source, root / "zoos", "own_zoo", workers=1)
        read_all(root / "zoos")

    def special(self, root: Path, rng: random.Random) -> None:
        from model_zoos.builders.sources.importing import import_zoo

        if rng.random() < 0.6:
            path = self.copy(root)
            names = ["zoo.json", "splits.json", "published.json", "models"]
            names += [f"models/{p.name}" for p in (path / "models").iterdir()]
            put_special(path / rng.choice(names), rng)
            read_all(root)
            return
        source = root / "source"
        for name, content in self.trials.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
        put_special(source / rng.choice(sorted(self.trials)), rng)
        import_zoo(source, root / "zoos", "own_zoo", workers=1)
        read_all(root / "zoos")


def mutate_name(name: str, rng: random.Random) -> str:
    """A member's name that a reader may trip over."""
    folder, _, file = name.rpartition("/")
    return rng.choice(
        [
            f"../{name}", f"/{name}", name.replace("/", "\\"), f"{folder}/x/{file}", "a" * 60_000,
            f"{name}\x00", f"__MACOSX/{folder}/._{file}", name.upper(), f"{folder}//{file}",
            f"{folder}/./{file}", f"{folder}/é/{file}", f"{folder}:x/{file}",
        ]
    )  # fmt: skip


def put_special(path: Path, rng: random.Random) -> None:
    """Something that is no plain file in place of a path."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    what = rng.randrange(8)
    if what == 0:
        os.mkfifo(path)
    elif what == 1:
        path.mkdir()
    elif what == 2:
        path.symlink_to("/dev/zero")
    elif what == 3:
        path.symlink_to(path)
    elif what == 4:
        path.symlink_to(path.parent)
    elif what == 5:
        path.symlink_to("/dev/full")
    elif what == 6:
        path.symlink_to(path.parent / "nothing")
    else:
        server = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's address has 108 bytes at most
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)
            server.close()


def _zipped_pickle(body: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _nested() -> bytes:
    return _zipped_pickle(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")


def _doubling() -> bytes:
    """Lists of the same list twice, thirty deep: 2^30 values if it were written out."""
    return _zipped_pickle(b"\x80\x02]" + b"q\x00" + b"](h\x00h\x00eq\x00" * 30 + b".")


def _huge_dict() -> bytes:
    return _zipped_pickle(pickle.dumps({i: i for i in range(200_000)}, 2))


def _evil() -> bytes:
    return _zipped_pickle(b"cos\nsystem\n(S'touch model_zoos_was_executed'\ntR.")


PICKLES: list[Callable[[], bytes]] = [_nested, _doubling, _huge_dict, _evil, lambda: b""]


# --- Running them ---------------------------------------------------------------------------------


def _child(kind: str, numbers: list[int], seed: int, folder: Path, pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()
    cases = Cases(folder / f"inputs-{os.getpid()}")
    run = getattr(cases, kind)
    for number in numbers:
        root = folder / f"case-{os.getpid()}"
        root.mkdir()
        pipe.send(("begin", number, None))
        try:
            run(root, random.Random(f"{seed} {kind} {number}"))
            outcome, detail = "read", None
        except Exception as error:
            cause: BaseException = error
            while not isinstance(cause, errors.ModelZoosError) and cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(cause, errors.ModelZoosError):
                outcome, detail = f"refused: {type(cause).__name__}", None
            else:
                outcome, detail = "fault: traceback", traceback.format_exc()
        shutil.rmtree(root, ignore_errors=True)
        pipe.send(("end", number, (outcome, detail)))
    pipe.send(("done", None, None))


def _memory(pid: int) -> float:
    """Resident megabytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def run_cases(
    kind: str, numbers: list[int], seed: int, folder: Path
) -> Iterator[tuple[int, str, str | None]]:
    """Number, outcome and traceback of each case."""
    context = multiprocessing.get_context("fork")
    waiting = list(numbers)
    while waiting:
        ours, theirs = context.Pipe()
        child = context.Process(target=_child, args=(kind, waiting, seed, folder, theirs))
        child.start()
        theirs.close()
        current, begun, base = None, time.monotonic(), None
        outcome: str | None = None
        while outcome is None:
            try:
                if ours.poll(0.1):
                    what, number, value = ours.recv()
                    if what == "begin":
                        current, begun = number, time.monotonic()
                        assert child.pid is not None
                        base = base or _memory(child.pid)
                    elif what == "end":
                        waiting.remove(number)
                        current = None
                        yield number, *value
                    else:
                        outcome = "done"
                    continue
            except EOFError:
                outcome = f"fault: died with {child.exitcode}"
            if current is not None and time.monotonic() - begun > SECONDS:
                outcome = "fault: hang"
            if current is not None and child.is_alive():
                assert child.pid is not None
                used = _memory(child.pid) - (base or 0)
                outcome = "fault: memory" if used > MEGABYTES else outcome
        if outcome != "done":
            child.kill()
            child.join()
            if current is None:
                raise RuntimeError(f"{kind}: {outcome} before a case")
            waiting.remove(current)
            yield current, outcome, None
        child.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    kinds = ("model_files", "zips", "directories", "special")
    for kind in kinds:
        parser.add_argument(f"--{kind.replace('_', '-')}", type=int, default=0)
    parser.add_argument("--only", help="repeat one case: KIND:NUMBER")
    options = parser.parse_args()
    todo = {kind: list(range(getattr(options, kind))) for kind in kinds}
    if options.only:
        kind, _, number = options.only.partition(":")
        todo = {kind: [int(number)]}
    faults = 0
    for kind, numbers in todo.items():
        if not numbers:
            continue
        counts: Counter[str] = Counter()
        seen: Counter[str] = Counter()
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            for number, outcome, detail in run_cases(kind, numbers, options.seed, Path(folder)):
                counts[outcome] += 1
                if outcome.startswith("fault"):
                    faults += 1
                    last = (detail or outcome).strip().splitlines()[-1][:200]
                    seen[last] += 1
                    if seen[last] <= 1 or options.only:
                        print(f"{kind}:{number} {outcome} {last}", flush=True)
                        if options.only and detail:
                            print(detail)
        print(f"{kind}: {len(numbers)} cases in {time.monotonic() - start:.0f} s")
        for outcome, count in counts.most_common():
            print(f"  {count:6,} {outcome}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
