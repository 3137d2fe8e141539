"""croissant.json of a built folder: against the folder's files, and in `mlcroissant`."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.hub.contents import Contents, read_contents
from model_zoos.builders.hub.croissant import render_croissant
from model_zoos.builders.hub.names import CROISSANT
from model_zoos.builders.hub.publish import folder_files
from tests.zoos import random_zoo

NAMES = ["digits_cnn_s", "cifar10_cnn_l_seed"]

# https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html, "dataType"
TYPES = {"string": "sc:Text", "int32": "cr:Int32", "int64": "cr:Int64"}
TYPES |= {"float": "cr:Float32", "double": "cr:Float64"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two zoos with weights of different lengths; one lacks a test split."""
    root = tmp_path_factory.mktemp("croissant")
    for name, models in zip(NAMES, (9, 2), strict=True):
        random_zoo(root / "zoos", dataclasses.replace(zoo_spec(name), epochs=3), models)
    build_folder(NAMES, root / "zoos", root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / CROISSANT).read_bytes()))


def test_every_file_is_there_with_its_digest(folder: Path, document: dict[str, Any]) -> None:
    files = {part["@id"]: part for part in document["distribution"] if "sha256" in part}
    metrics = {path.relative_to(folder).as_posix() for path in folder.glob("metrics/*")}
    assert set(files) == metrics
    for name, file in files.items():
        content = (folder / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest(), name
        assert file["contentSize"] == f"{len(content)} B"


def test_every_record_set_has_the_columns_of_its_files(
    folder: Path, document: dict[str, Any]
) -> None:
    sets = {p["@id"]: p["includes"] for p in document["distribution"] if "includes" in p}
    records = {record["@id"]: record for record in document["recordSet"]}
    assert set(records) == {"metrics", *NAMES, *(f"{name}/metrics" for name in NAMES)}
    read = []
    for name, record in records.items():
        fields = {field["name"]: field for field in record["field"]}
        [source] = {field["source"]["fileSet"]["@id"] for field in record["field"]}
        files = sorted(folder.glob(sets[source]))
        read += files
        split = fields.pop("split")["source"]["transform"]["regex"]
        for path in files:
            schema = pq.read_schema(path)
            assert list(fields) == schema.names, name
            for column in schema:
                field = fields[column.name]
                assert field["@id"] == f"{name}/{column.name}"
                assert field["source"]["extract"] == {"column": column.name}
                kind = column.type
                if column.name == "weights":
                    assert field["isArray"] is True
                    assert field["arrayShape"] == str(kind.list_size)
                    kind = kind.value_type
                assert field["dataType"] == TYPES[str(kind)]
            found = re.match(split, path.relative_to(folder).as_posix())
            own = path.stem.rpartition("-")[2] if "metrics" in name else path.stem.partition("-")[0]
            assert found is not None
            assert found[1] == own
        assert {key["@id"] for key in record["key"]} < {field["@id"] for field in fields.values()}
    assert set(read) == set(folder.rglob("*.parquet"))
    ids = [part["@id"] for part in [*document["distribution"], *document["recordSet"]]]
    assert len(set(ids)) == len(ids)
    assert not any(" " in name for name in ids)  # no IRI has one


def test_what_it_says_of_the_data_set(document: dict[str, Any], folder: Path) -> None:
    assert document["license"] in (folder / "README.md").read_text()
    assert document["citeAs"] in (folder / "README.md").read_text()
    assert document["citeAs"].startswith("@inproceedings{schurholt2022modelzoos,")
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    described = {record["@id"]: record["description"] for record in document["recordSet"]}
    assert described["digits_cnn_s"] == "36 states of 9 models, all columns"


def test_zoos_of_ones_own_cite_nobody(folder: Path) -> None:
    contents = read_contents(folder)
    document = json.loads(render_croissant(contents, folder, "mit"))
    assert document["license"] == "mit"
    assert "citeAs" in document
    zoo = dataclasses.replace(contents.zoos[0].zoo, name="mine")
    own = dataclasses.replace(contents.zoos[0], zoo=zoo, states={})  # it has no files here
    assert "citeAs" not in json.loads(render_croissant(Contents((own,)), folder))


def test_it_follows_the_folder_and_is_not_published(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "out")
    before = (folder / CROISSANT).read_bytes()
    assert CROISSANT not in folder_files(folder)
    zoos = folder.parent / "zoos"
    build_folder([NAMES[0]], zoos, tmp_path / "out")
    assert (tmp_path / "out" / CROISSANT).read_bytes() == before
    random_zoo(tmp_path / "zoos", dataclasses.replace(zoo_spec("usps_cnn_s_seed"), epochs=1), 7)
    build_folder(["usps_cnn_s_seed"], tmp_path / "zoos", tmp_path / "out")
    names = {
        record["@id"]
        for record in json.loads((tmp_path / "out" / CROISSANT).read_bytes())["recordSet"]
    }
    assert names >= {*NAMES, "usps_cnn_s_seed"}


@pytest.mark.slow
def test_mlcroissant_reads_the_rows(folder: Path, document: dict[str, Any]) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(str(folder / CROISSANT))  # raises what is invalid
    assert not dataset.metadata.issues.errors
    for name in ("metrics", "digits_cnn_s/metrics", "digits_cnn_s"):
        zoos = NAMES if name == "metrics" else NAMES[:1]
        kind = "metrics/{}-*" if name.endswith("metrics") else "data/{}/*"
        paths = [path for zoo in zoos for path in folder.glob(kind.format(zoo))]
        table = pa.concat_tables([pq.read_table(path) for path in paths])
        rows = {(row["model_id"], row["epoch"]): row for row in table.to_pylist()}
        records = list(itertools.islice(dataset.records(name), 10))
        assert len(records) == 10
        for record in records:
            values = {
                column.removeprefix(f"{name}/"): value.decode()
                if isinstance(value, bytes)
                else value
                for column, value in record.items()
            }
            split = values.pop("split")
            assert split in ("train", "validation", "test")
            assert values == rows[values["model_id"], values["epoch"]]
