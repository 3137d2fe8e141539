"""Publish hostile repositories to the Hub of the tests, read them, and publish into them.

    python -m tests.hostile_repositories --seed 1 --count 200

Cases, limits and outcomes are those of tests/hostile.py, but ten seconds are the limit of each load
or publication. Every case follows from the seed and its number, and `--only NUMBER` repeats one.
Two good repositories, one of a zoo whose models share files and one of a zoo with files for each
model, are made hostile in up to three places. Then all of their zoos are loaded with
`load_dataset(..., repo=...)`, and both zoos are published into them. An error of model_zoos.errors
is a good outcome, as is none.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.hub_server import WRITER, Hub

REPOSITORY = "me/hostile"
SECONDS = 10.0
"""Limit of each of the seven actions of a case."""

Files = dict[str, bytes]


# --- Inputs ---------------------------------------------------------------------------------------


@cache
def good() -> tuple[Path, Files]:
    """A folder with zoos and built folders, and the files of a good repository of both zoos."""
    from model_zoos.builders.hub.build import build_folder
    from tests import hostile
    from tests.builders.hub import small_states

    small_states.register()

    folder = Path(tempfile.mkdtemp(prefix="hostile-good-"))
    hostile.make_zoo(folder / "zoos", models=9)
    small_states.make(folder / "zoos")
    build_folder(["digits_cnn_s"], folder / "zoos", folder / "shared")
    build_folder(["digits_cnn_s", small_states.NAME], folder / "zoos", folder / "all")
    files = {
        path.relative_to(folder / "all").as_posix(): path.read_bytes()
        for path in (folder / "all").rglob("*")
        if path.is_file() and ".build" not in path.parts
    }
    return folder, files


def cases(seed: int, number: int) -> Files:
    """Return the files of a hostile repository."""
    return hostile_files(random.Random(f"{seed} repositories {number}"))


def hostile_files(rng: random.Random) -> Files:
    files = dict(good()[1])
    for _ in range(rng.choice([1, 1, 2, 3])):
        rng.choice(MUTATIONS)(files, rng)
    return files


def parquet_of(files: Files, rng: random.Random) -> str:
    return rng.choice(sorted(path for path in files if path.endswith(".parquet")) or ["x.parquet"])


def damage(files: Files, rng: random.Random) -> None:
    """Bytes flipped, cut or inserted, more often at one of the ends, where the footer is."""
    from tests.hostile import mutate_bytes

    path = parquet_of(files, rng)
    content = files.get(path, b"")
    tail = rng.choice([8, 64, 1024, len(content)])
    start = max(0, len(content) - tail)
    files[path] = rng.choice(
        [
            lambda: content[:start] + mutate_bytes(content[start:], rng),
            lambda: mutate_bytes(content, rng),
            lambda: content[: rng.randrange(len(content) + 1)],
            lambda: content[:-8] + rng.randbytes(4) + b"PAR1",
            lambda: b"",
            lambda: b"PAR1" + b"\0" * 8 + b"PAR1",
            lambda: b"PARE" + content[4:-4] + b"PARE",
            lambda: rng.randbytes(3000),
        ]
    )()


def rewrite(files: Files, rng: random.Random) -> None:
    """Rows that a zoo cannot have, in a file that is Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = parquet_of(files, rng)
    try:
        table = pq.read_table(io.BytesIO(files[path]))
        change = rng.choice(
            [drop, retype, nulls, twice, lengths, enlarge, describe, many, constant, repeat_columns]
        )
        table = change(table, rng)
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=rng.choice([len(table) // 50 + 1, 1 << 20]))
    except (KeyError, pa.ArrowException, OSError, ValueError, TypeError):
        return  # made hostile before
    files[path] = sink.getvalue()


def column_of(table: Any, rng: random.Random) -> str:
    return str(rng.choice([*table.column_names, "weights", "model_id", "epoch"]))


def replaced(table: Any, name: str, column: Any) -> Any:
    number = table.schema.get_field_index(name)
    return table if number < 0 else table.set_column(number, name, column)


def drop(table: Any, rng: random.Random) -> Any:
    return table.drop_columns([rng.choice(table.column_names)])


def retype(table: Any, rng: random.Random) -> Any:
    import pyarrow as pa

    name = column_of(table, rng)
    kind = rng.choice([pa.string(), pa.int64(), pa.float64(), pa.binary(), pa.list_(pa.float32())])
    return replaced(table, name, pa.nulls(len(table), kind))


def nulls(table: Any, rng: random.Random) -> Any:
    import pyarrow as pa

    name = column_of(table, rng)
    if name not in table.column_names:
        return table
    keep = [rng.random() < 0.9 for _ in range(len(table))]
    values = [value if k else None for value, k in zip(table[name].to_pylist(), keep, strict=True)]
    return replaced(table, name, pa.array(values, table.schema.field(name).type))


def twice(table: Any, rng: random.Random) -> Any:
    import pyarrow as pa

    return pa.concat_tables([table, table.slice(rng.randrange(len(table) + 1))])


def lengths(table: Any, rng: random.Random) -> Any:
    import pyarrow as pa

    size = rng.choice([0, 1, 2463, 2465, 7850])
    values = pa.array([0.0] * (size * len(table)), pa.float32())
    if not size:
        return replaced(table, "weights", pa.nulls(len(table), pa.list_(pa.float32())))
    return replaced(table, "weights", pa.FixedSizeListArray.from_arrays(values, size))


def enlarge(table: Any, rng: random.Random) -> Any:
    import pyarrow as pa

    text = rng.choice(["", "x" * 2_000_000, "\x00", "../../x", "🦊" * 1000, " "])
    name = rng.choice(["model_id", "zoo", "architecture", "activation"])
    return replaced(table, name, pa.array([text] * len(table)))


def constant(table: Any, rng: random.Random) -> Any:
    import pyarrow as pa

    name = rng.choice(["epoch", "batch_size", "seed", "test_acc", "learning_rate"])
    value = rng.choice([-1, 0, 2**31 - 1, -(2**31)])
    if name not in table.column_names:
        return table
    kind = table.schema.field(name).type
    return replaced(table, name, pa.array([value] * len(table), pa.int64()).cast(kind, safe=False))


def many(table: Any, rng: random.Random) -> Any:
    """Many rows that take no room."""
    import pyarrow as pa

    one = table.slice(0, 1)
    sizes = [100, 500] if "weights" in table.column_names else [10_000, 50_000]
    rows = rng.choice(sizes)
    return pa.concat_tables([one]).take(pa.array([0] * rows, pa.int32()))


def repeat_columns(table: Any, rng: random.Random) -> Any:
    name = column_of(table, rng)
    if name not in table.column_names:
        return table
    return table.append_column(name, table[name])


def describe(table: Any, rng: random.Random) -> Any:
    """Another description of the zoo in the schema."""
    from tests.hostile import dump, mutate_json

    metadata = dict(table.schema.metadata or {})
    try:
        about = json.loads(metadata.get(b"model_zoos", b"{}"))
    except (ValueError, RecursionError):  # made hostile before
        return table
    metadata[b"model_zoos"] = dump(mutate_json(about, rng), rng)
    return table.replace_schema_metadata(metadata)


def rename(files: Files, rng: random.Random) -> None:
    """A file under the name of another, or of none."""
    path = parquet_of(files, rng)
    if path not in files:
        return
    other = rng.choice(
        [
            path.replace("train", "test"), path.replace("-00000-of-", "-00001-of-"),
            path.replace("-of-00001", "-of-99999"), path.replace("-of-00001", "-of-00002"),
            path.replace("digits_cnn_s", "small_states"), path.replace("digits_cnn_s", "digits"),
            path.replace("digits_cnn_s", "mnist_cnn_s"), path.replace("digits_cnn_s", "metrics"),
            f"data/digits_cnn_s/{path.rpartition('/')[2]}", f"data/{'a' * 200}/train.parquet",
            "data/digits_cnn_s/train-m-00000-of-00001.parquet", parquet_of(files, rng),
            "data/_/train-00000-of-00001.parquet", "data/digits_cnn_s/train-00000-of-00000.parquet",
        ]
    )  # fmt: skip
    files[other] = files[path]
    if rng.random() < 0.6:
        del files[path]


def remove(files: Files, rng: random.Random) -> None:
    path = rng.choice(sorted(files))
    if rng.random() < 0.3:
        folder = path.partition("/")[0]
        for name in [name for name in files if name.startswith(folder)]:
            del files[name]
    else:
        del files[path]
    files.setdefault(".gitattributes", b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")


HEADERS: list[Callable[[random.Random], str]] = [
    lambda rng: "configs: abc", lambda rng: "tags: [{a: 1}]", lambda rng: "- a list",
    lambda rng: "a: !!python/object/apply:os.system [touch model_zoos_was_executed]",
    lambda rng: "[" * rng.choice([50, 5000, 200_000]), lambda rng: "a: " * 5000,
    lambda rng: "configs: " + "x" * rng.choice([1000, 5_000_000]), lambda rng: "a: &a [*a]",
    lambda rng: "a: &a {x: 1}\nb: &b {<<: [*a, *a]}\nc: {<<: [*b, *b]}", lambda rng: "1: 2",
    lambda rng: "\n".join(
        ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n-1}, *a{n-1}]" for n in range(1, 40))]
    ),
    lambda rng: 'pretty_name: "\\ud800"\nconfigs: [{config_name: q}]', lambda rng: "self: 1",
    lambda rng: "configs:\n- config_name: default\n  data_files: {train: [1, {a: b}]}",
    lambda rng: "dataset_info: [[1]]", lambda rng: "language: {a: 1}", lambda rng: "? [a]\n: 1",
    lambda rng: "a: 2026-99-99", lambda rng: "a: " + "9" * 9000, lambda rng: "\n" * 400_000,
    lambda rng: "configs: [{config_name: [1]}]", lambda rng: "a: !!binary x\nb: !!set {x, y}",
    lambda rng: "configs: null\ntags: null", lambda rng: "%YAML 9.9", lambda rng: "\t",
]  # fmt: skip


def readme(files: Files, rng: random.Random) -> None:
    from tests.hostile import NASTY, dump, mutate_bytes

    content = files.get("README.md", b"")
    header = rng.choice(HEADERS)(rng).encode("utf-8", "surrogatepass")
    files["README.md"] = rng.choice(
        [
            lambda: b"---\n" + header + b"\n---\nText\n",
            lambda: b"---\n" + header + b"\n---\nText\n",
            lambda: b"---\nconfigs: " + dump(rng.choice(NASTY), rng) + b"\n---\n",
            lambda: mutate_bytes(content, rng),
            lambda: b"\xff\xfe" + content,
            lambda: b"---\n" + b"\n" * 1_000_000,
            lambda: b"x" * (5 << 20),
        ]
    )()


def layout(files: Files, rng: random.Random) -> None:
    from tests.hostile import dump, mutate_json

    _, originals = good()
    for path in [path for path in files if path.startswith("layouts/")]:
        files[path] = dump(mutate_json(json.loads(originals[path]), rng), rng)


MUTATIONS = [damage, damage, rewrite, rewrite, rewrite, rename, remove, readme, layout]


# --- What is done with them -----------------------------------------------------------------------


def run(seed: int, number: int, hub: Hub, root: Path) -> None:
    """Read the repository of a case, and publish into it; see `use`."""
    use(cases(seed, number), hub, root)


def use(files: Files, hub: Hub, root: Path) -> None:
    """Load the zoos of a repository and publish into it, as a user does.

    Args:
        files: of the repository.
        hub: where it is put.
        root: an empty folder for zoos and caches.

    Raises:
        ModelZoosError: the first one, after everything was tried.
    """
    from datasets import load_dataset

    from model_zoos.builders.hub.incremental import PublishOptions, prepare_push, push_models
    from model_zoos.builders.hub.publish import publish
    from model_zoos.builders.zoo_directory import open_zoo
    from model_zoos.errors import ModelZoosError
    from tests.builders.hub.small_states import NAME, weights_of

    hub.repos.pop(REPOSITORY, None)
    shutil.rmtree(hub.object(REPOSITORY, "all").parent, ignore_errors=True)
    hub.put(REPOSITORY, files)
    folder = good()[0]
    errors: list[Exception] = []

    def attempt(action: Callable[[], object]) -> None:
        start = time.monotonic()
        try:
            action()
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, ModelZoosError):
                cause = cause.__cause__
            if cause is None:
                raise
            errors.append(error)
        if (seconds := time.monotonic() - start) > SECONDS:
            raise TimeoutError(f"an action took {seconds:.0f} s")

    def load(name: str, **arguments: Any) -> None:
        splits = load_dataset(
            "model_zoos",
            name,
            repo=REPOSITORY,
            data_dir=str(root / "none"),
            cache_dir=str(root / "cache"),
            **arguments,
        )
        for rows in splits.values():
            for _ in rows.with_format("arrow").iter(batch_size=1000):
                pass

    for name in ("digits_cnn_s", NAME, "metrics"):
        attempt(lambda name=name: load(name, streaming=True))  # type: ignore[misc]
    attempt(lambda: load("digits_cnn_s", columns=["weights", "epoch"]))
    attempt(lambda: load(NAME, filters=[("epoch", "==", 1)]))
    shutil.copytree(folder / "zoos" / NAME, root / "zoos" / NAME)
    directory = open_zoo(root / "zoos", NAME)
    models = [path.name for path in directory.models_path.iterdir()]
    before = {model: weights_of(root / "zoos", model) for model in models}

    def push() -> None:
        options = PublishOptions(REPOSITORY, free=True)
        prepare_push(directory, options)
        push_models(directory, options)

    attempt(push)
    if not errors:
        for model in directory.published().freed:
            assert not weights_of(root / "zoos", model)
    for model in set(models) - directory.published().freed:
        assert weights_of(root / "zoos", model) == before[model]
    attempt(lambda: publish(folder / "shared", REPOSITORY))
    if errors:
        raise errors[0]


# --- Running them ---------------------------------------------------------------------------------


class Repositories:
    """The kind of cases that tests/hostile.py runs in its child processes."""

    def __init__(self, folder: Path) -> None:
        self.hub = Hub(folder / "hub", port=int(os.environ["HF_ENDPOINT"].rpartition(":")[2]))
        self.hub.__enter__()

    def repositories(self, root: Path, rng: random.Random) -> None:
        use(hostile_files(rng), self.hub, root)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--only", type=int, help="repeat one case")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="hostile-repositories-"))
    # Before the libraries are imported, which read these once.
    os.environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(folder / "cache"),
        "HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    os.environ.pop("HF_HUB_OFFLINE", None)
    import datasets
    import huggingface_hub  # noqa: F401

    from tests import hostile

    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    hostile.SECONDS = 7 * SECONDS
    hostile.Cases = Repositories  # type: ignore[assignment,misc]
    numbers = [options.only] if options.only is not None else list(range(options.count))
    counts: Counter[str] = Counter()
    start = time.monotonic()
    try:
        good()
        for number, outcome, detail in hostile.run_cases(
            "repositories", numbers, options.seed, folder
        ):
            counts[outcome] += 1
            if outcome.startswith("fault"):
                last = (detail or outcome).strip().splitlines()[-1][:200]
                print(f"repositories:{number} {outcome} {last}", flush=True)
                if options.only is not None and detail:
                    print(detail)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(good()[0], ignore_errors=True)
    print(f"repositories: {len(numbers)} cases in {time.monotonic() - start:.0f} s")
    for outcome, count in counts.most_common():
        print(f"  {count:6,} {outcome}")
    return 1 if any(outcome.startswith("fault") for outcome in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
