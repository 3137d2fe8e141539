"""The Small CNN Zoo in an archive, and the splits that published work gives it."""

from __future__ import annotations

import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_zoos.benchmarks.checks import Findings, ZooOnDisk, check_splits
from model_zoos.builders.sources import tarball
from model_zoos.builders.sources.importing import import_zoo
from model_zoos.builders.sources.small_cnn_files import FILES
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import FaultyZoo, InvalidArgument, SourceNotFound, Unreadable
from tests.builders.sources.test_small_cnn_zoo import STEPS, files_of, rows_of, some_weights, write

MODELS = 20


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three files, with their rows in no order (never write to it)."""
    rows, weights = rows_of(MODELS), some_weights(MODELS * len(STEPS))
    for row in rows:
        row["config.dropout"] = 0.0
    random.Random(1).shuffle(rows)
    return write(tmp_path_factory.mktemp("source") / "zoo", rows, weights)


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(member, key, value)
    member.size = len(content) if member.isreg() else 0
    archive.addfile(member, io.BytesIO(content))


def members(zoo: Path) -> dict[str, bytes]:
    return {f"mnist/{name}": (zoo / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.xz"])
def test_an_archive_gives_the_zoo_of_its_files(zoo: Path, tmp_path: Path, suffix: str) -> None:
    import_zoo(zoo, tmp_path / "one", "own")
    path = tmp_path / f"mnist{suffix}"
    with tarfile.open(path, f"w:{suffix[-2:]}" if suffix != ".tar" else "w") as archive:
        add(archive, "mnist", type=tarfile.DIRTYPE)
        add(archive, "mnist/README", b"x" * 3_000_000, pax_headers={"comment": "made by a test"})
        add(archive, "mnist/._weights.npy", b"of macOS")
        for name, content in reversed(members(zoo).items()):
            add(archive, name, content)
    [report] = import_zoo(path, tmp_path / "two", "own")
    assert (report.kept, report.source["file"]) == (MODELS * len(STEPS), path.name)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert [entry.name for entry in (tmp_path / "two").iterdir()] == ["own"]


def test_several_streams_of_xz_are_one_archive(zoo: Path, tmp_path: Path) -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in members(zoo).items():
            add(archive, name, content)
    whole, half = plain.getvalue(), len(plain.getvalue()) // 2
    path = tmp_path / "zoo.tar.xz"
    path.write_bytes(lzma.compress(whole[:half]) + b"\0" * 8 + lzma.compress(whole[half:]))
    [report] = import_zoo(path, tmp_path, "own")
    assert report.kept == MODELS * len(STEPS)


Spoil = Callable[[tarfile.TarFile, Path], object]

HOSTILE: dict[str, tuple[Spoil, str]] = {
    "a path outside": (lambda a, _: add(a, "../evil", b"x"), r"refused: the path '\.\./evil'"),
    "an absolute path": (lambda a, _: add(a, "/tmp/evil", b"x"), "refused: the path"),
    "a link": (
        lambda a, _: add(a, "mnist/weights.npy", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "is a link, a device",
    ),
    "a hard link": (lambda a, _: add(a, "x", type=tarfile.LNKTYPE, linkname="y"), "is a link"),
    "a device": (lambda a, _: add(a, "x", type=tarfile.CHRTYPE), "is a link, a device"),
    "a pipe": (lambda a, _: add(a, "x", type=tarfile.FIFOTYPE), "is a link, a device"),
    "a file twice": (lambda a, _: add(a, "layout.csv", b"x"), "holds layout.csv twice"),
    "a huge layout": (lambda a, _: add(a, "b/layout.csv", b"x" * 100_000), "too large: layout"),
    "a long name": (lambda a, _: add(a, "x" * 3_000_000, b""), "too large: a header"),
    "many files": (lambda a, _: [add(a, str(n)) for n in range(10_001)], "more than 10,000"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(zoo: Path, tmp_path: Path, name: str) -> None:
    spoil, message = HOSTILE[name]
    path = tmp_path / "zoo.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        if name == "a file twice":
            for member, content in members(zoo).items():
                add(archive, member, content)
        spoil(archive, zoo)
        for member, content in members(zoo).items():
            add(archive, member, content)
    with pytest.raises(Unreadable, match=message):
        import_zoo(path, tmp_path / "zoos", "own")
    assert not any((tmp_path / "zoos").iterdir())
    assert not (tmp_path / "evil").exists()


def test_broken_archives_are_refused(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "zoo.tar.xz"
    with tarfile.open(path, "w:xz", preset=0) as archive:
        for name, content in members(zoo).items():
            add(archive, name, content)
    content = path.read_bytes()
    lacking, apart = io.BytesIO(), io.BytesIO()
    for file, folders in ((lacking, "aa"), (apart, "aab")):
        with tarfile.open(fileobj=file, mode="w:xz") as archive:
            for folder, name in zip(folders, FILES, strict=False):
                add(archive, f"{folder}/{name}", (zoo / name).read_bytes())
    for wrong, message in (
        (content[: len(content) // 2], "unreadable: EOFError: it ends too early"),
        (b"no archive", "unreadable: LZMAError"),
        (b"", "unreadable"),
        (lzma.compress(b"\0" * 10240), "has no weights.npy and no metrics"),
        (lacking.getvalue(), "has no layout.csv: .*unpack one of trials or checkpoints"),
        (apart.getvalue(), "do not lie together"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(Unreadable, match=message):
            import_zoo(path, tmp_path / "zoos", "own")
    path.write_bytes(content)
    for name, value, message in (
        ("_MAX_UNPACKED", 100_000, "too large: unpacked"),
        ("_XZ_MEMORY", 50_000, "unreadable: LZMAError: Memory usage limit"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(tarball, name, value)
            with pytest.raises(Unreadable, match=message):
                import_zoo(path, tmp_path / "zoos", "own")
    assert not any((tmp_path / "zoos").iterdir())


# --- Splits ---------------------------------------------------------------------------------------


def published_split(zoo: Path, order: list[int]) -> dict[str, str]:
    """As the readers of published work make it: of lists of rows, with nothing of ours."""
    lines = gzip.decompress((zoo / "metrics.csv.gz").read_bytes()).decode().splitlines()
    head = lines[0].split(",")
    rows = [dict(zip(head, line.split(","), strict=True)) for line in lines[1:]]
    final = [rows[number] for number in order if rows[number]["step"] == "86"]
    half = int(0.5 * len(final))
    rest = list(range(half))
    random.Random(0).shuffle(rest)
    cut = int(0.8 * len(rest))
    places = {"train": rest[:cut], "validation": rest[cut:], "test": range(half, len(final))}
    return {
        final[place]["modeldir"].rpartition("/")[2]: split
        for split, some in places.items()
        for place in some
    }


def test_an_index_list_gives_the_splits_of_published_work(zoo: Path, tmp_path: Path) -> None:
    order = np.random.default_rng(5).permutation(MODELS * len(STEPS)).tolist()
    path = tmp_path / "split.csv"
    path.write_text("\n".join(map(str, order)))
    import_zoo(zoo, tmp_path, "own", splits=path)
    directory = open_zoo(tmp_path, "own")
    assert directory.splits() == published_split(zoo, order)
    assert sorted(directory.splits().values()).count("test") == MODELS // 2
    findings = Findings()
    check_splits(ZooOnDisk(directory), findings)
    assert findings["splits"].wrong == 0
    with pytest.raises(FaultyZoo, match="in another way: they differ in splits"):
        import_zoo(zoo, tmp_path, "own")


def test_a_table_of_splits(zoo: Path, tmp_path: Path) -> None:
    wanted = {str(number): ("train", "val", "test")[number % 3] for number in range(MODELS - 2)}
    path = tmp_path / "split.csv"
    path.write_text("split,model_id\n" + "".join(f"{s},{m}\n" for m, s in wanted.items()))
    import_zoo(zoo, tmp_path, "own", splits=path)
    found = open_zoo(tmp_path, "own").splits()
    assert len(found) == MODELS
    for model, split in wanted.items():
        assert found[model] == {"val": "validation"}.get(split, split)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\n2\n1\n", "names a row twice"),
        ("1\ntwo\n", "split.csv: 'two' is no number of a row"),
        ("4000\n", "names none of its models"),
        ("model,split\n1,train\n", "neither a list of row numbers nor a table"),
        ("model_id,split\n1,half\n", "'half' is none of train"),
        ("model_id,split\n1,train\n1,test\n", "is in two splits"),
        ("model_id,split\nnobody,test\n", "names none of its models"),
        ("", "neither a list"),
    ],
)
def test_bad_splits_are_refused(zoo: Path, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "split.csv"
    path.write_text(content)
    with pytest.raises(Unreadable, match=message):
        import_zoo(zoo, tmp_path, "own", splits=path)
    assert not (tmp_path / "own").exists()


def test_splits_are_for_some_sources(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="no such file of splits"):
        import_zoo(zoo, tmp_path, "own", splits=tmp_path / "none.csv")
    with pytest.raises(InvalidArgument, match="splits can be given for the Small CNN Zoo"):
        import_zoo(tmp_path, tmp_path, "own", splits=tmp_path / "none.csv")
