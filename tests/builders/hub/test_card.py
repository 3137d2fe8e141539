"""The card: its YAML against the Hub's own classes, its tables and its code against what runs."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Features, load_dataset
from datasets.data_files import DataFilesDict, sanitize_patterns
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image
from sklearn.datasets import load_digits

import model_zoos
from model_zoos.builders.catalog import IMAGE_SETS, zoo_spec
from model_zoos.builders.hub.build import build_folder
from model_zoos.builders.hub.card import (
    PLACEHOLDER,
    TEMPLATE,
    card_data,
    published_card,
    render_card,
    size_category,
)
from model_zoos.builders.hub.contents import Contents, ZooEntry, describe_contents, read_contents
from model_zoos.builders.hub.merge import with_text_of
from model_zoos.builders.schema import COLUMNS, row_features
from model_zoos.builders.specification import VARIANTS, Zoo
from model_zoos.builders.zoo_directory import open_zoo
from model_zoos.errors import FaultyZoo, InvalidArgument
from model_zoos.generation.generate import generate
from model_zoos.generation.images import IMAGE_SOURCES, load_images
from model_zoos.generation.options import TwinOptions
from model_zoos.generation.sparsify import sparsify
from tests.shared import contents
from tests.zoos import random_zoo

# As https://huggingface.co/docs/hub/datasets-cards and datasets' own resources list them.
LICENCES = {"cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "mit", "apache-2.0", "other", "unknown"}
TASK_CATEGORIES = {"other", "feature-extraction", "tabular-regression", "tabular-classification"}

UNION = [f"mnist_cnn_s_{variant}" for variant in VARIANTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits_home: Path) -> Path:
    """The trained digits and a union."""
    root = tmp_path_factory.mktemp("card")
    shutil.copytree(digits_home / "digits_cnn_s", root / "zoos" / "digits_cnn_s")
    for name in UNION:
        random_zoo(root / "zoos", dataclasses.replace(zoo_spec(name), epochs=1), 8)
    build_folder(["digits_cnn_s", "mnist_cnn_s"], root / "zoos", root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def card(folder: Path) -> DatasetCard:
    return DatasetCard.load(folder / "README.md")


def test_the_hubs_classes_read_the_yaml(card: DatasetCard, folder: Path) -> None:
    assert isinstance(card.data, DatasetCardData)
    configs = MetadataConfigs.from_dataset_card_data(card.data)
    assert set(configs) == {"digits_cnn_s", "mnist_cnn_s", *UNION, "metrics"}
    assert configs.get_default_config_name() == "metrics"
    for name, config in configs.items():
        files = DataFilesDict.from_patterns(
            sanitize_patterns(config["data_files"]), base_path=str(folder)
        )
        assert list(files) == ["train", "validation", "test"]
        zoos = {"metrics": ["digits_cnn_s", *sorted(UNION)], "mnist_cnn_s": UNION}
        for split, paths in files.items():
            expected = [
                f"metrics/{zoo}-{split}.parquet"
                if name == "metrics"
                else f"data/{zoo}/{split}-00000-of-00001.parquet"
                for zoo in zoos.get(name, [name])
            ]
            assert [Path(path).relative_to(folder).as_posix() for path in paths] == expected
    infos = DatasetInfosDict.from_dataset_card_data(card.data)
    assert set(infos) == set(configs)
    for name, info in infos.items():
        assert info.features == row_features(None if name == "metrics" else 2464)
        assert info.splits is None  # numbers of rows would make `filters=` fail
    # datasets reads these blocks itself too, not only through its classes.
    raw = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    by_name = {info["config_name"]: info["features"] for info in raw["dataset_info"]}
    assert Features._from_yaml_list(by_name["digits_cnn_s"])["weights"].length == 2464


def test_ids_are_those_that_the_hub_knows(card: DatasetCard) -> None:
    import datasets

    sizes = Path(datasets.__file__).parent / "utils" / "resources" / "size_categories.json"
    allowed = json.loads(sizes.read_text())
    assert card.data.license in LICENCES
    assert set(card.data.task_categories) <= TASK_CATEGORIES
    assert card.data.size_categories == ["n<1K"]  # 120 + 3 * 16 rows
    for rows, expected in (
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (8_320, "1K<n<10K"),
        (2_585_360, "1M<n<10M"),
        (3_844_360, "1M<n<10M"),
        (10**9, "1B<n<10B"),
    ):
        assert size_category(rows) == expected
        assert expected in allowed


def test_the_table_says_what_is_in_the_files(card: DatasetCard, folder: Path) -> None:
    home = folder.parent / "zoos"
    directory = open_zoo(home, "digits_cnn_s")
    last = [states.metrics["test_acc"][-1] for states in directory.scan()[0]]
    size = sum(path.stat().st_size for path in (folder / "data/digits_cnn_s").iterdir())
    row = (
        f"| `digits_cnn_s` | CNN-s | 2,464 | 14 / 3 / 3 | 120 | {size / 1e6:.1f} MB | "
        f"{np.mean(last):.1%} | made with model_zoos (lanes) |"
    )
    engine = directory.info["engine"]
    assert row.replace("(lanes)", f"({engine})") in card.text
    assert "`mnist_cnn_s` is the union of `mnist_cnn_s_seed`, `mnist_cnn_s_hyp_10_r`" in card.text
    assert f"`digits_cnn_s`: {zoo_spec('digits_cnn_s').note}." in card.text


def test_the_text_is_whole(card: DatasetCard) -> None:
    assert not re.search(r"\{\{|\{%|%\}|\}\}(?!,|\n)", card.text)
    prose = re.sub(r"^```.*?^```", "code", card.text, flags=re.DOTALL | re.MULTILINE)
    assert "\n\n\n" not in prose
    assert "None" not in card.text
    described = set(re.findall(r"`(\w+)`", card.text.partition("## Columns")[2]))
    assert set(COLUMNS) <= described
    assert "(figures/" not in card.text
    assert "ResNet-18 is torchvision's" not in card.text  # none here


def test_weights_in_other_readers_are_as_the_card_says(tmp_path: Path) -> None:
    values = {size: np.arange(2 * size, dtype=np.float32).reshape(2, size) for size in (3, 5)}
    for size, rows in values.items():
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), size)
        pq.write_table(pa.table({"weights": column}), tmp_path / f"{size}.parquet")
        path = tmp_path / f"{size}.parquet"
        assert str(pq.read_schema(path).field("weights").type).startswith("fixed_size_list<")
        frame = pd.read_parquet(path)
        assert frame["weights"].dtype == object
        assert np.stack(frame["weights"]).dtype == np.float32
        assert (np.stack(frame["weights"]) == rows).all()
    both = pyarrow.dataset.dataset([str(path) for path in sorted(tmp_path.iterdir())])
    with pytest.raises(pa.ArrowTypeError, match="FixedSizeList"):
        both.to_table()


def _weights_files(root: Path) -> set[int]:
    """Write five rows in two files; return the ids of those whose weights lie in [-5, 5]."""
    weights = np.zeros((5, 3), np.float32)
    weights[range(1, 5), [0, 1, 2, 2]] = [5, -5.5, np.nan, np.inf]
    for number, part in enumerate((slice(0, 3), slice(3, 5))):
        column = pa.FixedSizeListArray.from_arrays(pa.array(weights[part].ravel()), 3)
        table = pa.table({"id": range(5)[part], "weights": column})
        pq.write_table(table, root / f"train-{number}.parquet")
    return {0, 1}


@pytest.mark.parametrize("reader", ["DuckDB", "Polars", "Spark"])
def test_the_query_of_each_reader_leaves_out_diverged_states(
    card: DatasetCard, tmp_path: Path, reader: str
) -> None:
    [kind, query] = re.findall(rf"^\| {reader} \| `(.*?)` \| `(.*)` \|$", card.text, re.MULTILINE)[
        0
    ]
    healthy = _weights_files(tmp_path)
    query = query.replace("data/digits_cnn_s", str(tmp_path))
    if reader == "DuckDB":
        duckdb = pytest.importorskip("duckdb")
        found = duckdb.sql(query)
        assert dict(zip(found.columns, map(str, found.types), strict=True))["weights"] == kind
        rows = {row[0] for row in found.fetchall()}
    elif reader == "Polars":
        pl = pytest.importorskip("polars")
        frame = eval(query, {"pl": pl}).collect()
        assert str(frame.schema["weights"]) == "Array(Float32, shape=(3,))"
        assert kind == "Array(Float32, N)"
        assert frame["weights"].to_numpy().shape == (2, 3)
        rows = set(frame["id"])
    else:
        sql = pytest.importorskip("pyspark.sql")
        spark = sql.SparkSession.builder.master("local[1]").getOrCreate()
        frame = eval(query, {"spark": spark})
        assert dict(frame.dtypes)["weights"] == kind
        rows = {row.id for row in frame.collect()}
        spark.stop()
    assert rows == healthy


def test_a_union_is_listed_when_all_its_parts_are_there(folder: Path) -> None:
    zoos = read_contents(folder).zoos
    parts = tuple(zoo for zoo in zoos if zoo.name != UNION[0])
    assert "mnist_cnn_s" in Contents(zoos).configs
    assert "mnist_cnn_s" not in Contents(parts).configs
    assert "`mnist_cnn_s` is" not in render_card(Contents(parts))


def test_figures_are_shown_when_they_are_there(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "out")
    (tmp_path / "out/figures").mkdir()
    (tmp_path / "out/figures/digits_cnn_s-accuracy.png").write_bytes(b"")
    text = render_card(read_contents(tmp_path / "out"))
    assert "![digits_cnn_s accuracy](figures/digits_cnn_s-accuracy.png)" in text


def test_the_same_files_elsewhere_give_the_same_card(folder: Path) -> None:
    """In memory instead of on this machine's disk; those on the Hub are not on it either."""
    files = contents(folder)
    sizes = {name: len(content) for name, content in files.items()}
    found = describe_contents(sizes, lambda name: io.BytesIO(files[name]), "me/zoos")
    there = read_contents(folder)
    assert found.zoos == tuple(dataclasses.replace(zoo, digest="") for zoo in there.zoos)
    assert found.figures == there.figures
    local = (folder / "README.md").read_text()
    assert re.search(r"\n  description: [0-9a-f]{64}\n", local)
    published = published_card(local, "me/zoos", there)
    assert with_text_of(render_card(found, "me/zoos"), "") == published
    assert "description: " not in published.partition("---\n#")[0]


def test_what_people_have_written_keeps_the_name_of_our_template(folder: Path) -> None:
    found = read_contents(folder)
    first, *others = found.zoos
    source = {"file": f"{PLACEHOLDER}.zip", "licence": PLACEHOLDER, "cite": f"us, {PLACEHOLDER}"}
    provenance = {**first.provenance, "engine": "original", "source": source}
    note = f"as {PLACEHOLDER}, and\nagain {PLACEHOLDER}"
    zoo = dataclasses.replace(first.zoo, note=note)
    first = dataclasses.replace(first, zoo=zoo, provenance=provenance)
    found = dataclasses.replace(found, zoos=(first, *others))
    below = f"The template says {PLACEHOLDER}.\n"
    local = with_text_of(render_card(found), "") + below
    text = published_card(local, "me/zoos", found)
    assert text == with_text_of(render_card(found, "me/zoos"), "") + below
    assert text.count(PLACEHOLDER) == 6
    assert 'load_dataset("me/zoos", ' in text


def test_others_files_are_passed_over_and_missing_ones_are_not(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    for name in ("data/theirs", "metrics"):
        (out / name).mkdir(exist_ok=True)
    shard = out / "data/digits_cnn_s/test-00000-of-00001.parquet"
    import pyarrow as pa
    import pyarrow.parquet as pq

    theirs = pa.table({"model_id": ["a"], "epoch": [1], "test_acc": [0.5]})
    pq.write_table(theirs, out / "metrics/theirs-train.parquet")
    shutil.copy(shard, out / "data/theirs/train-00000-of-00001.parquet")
    assert read_contents(out) == read_contents(folder)
    shard.unlink()
    with pytest.raises(FaultyZoo, match="digits_cnn_s lacks some of its files of the split test"):
        read_contents(out)


def test_a_folder_without_zoos_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one zoo"):
        render_card(read_contents(tmp_path))


# --- The code in the card -------------------------------------------------------------------------


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_code_runs_without_our_package(card: DatasetCard, folder: Path, tmp_path: Path) -> None:
    """On the folder instead of the Hub; the rebuilt network gives what ours gives."""
    codes = blocks(card.text)
    assert len(codes) == 4
    script = "import sys\nsys.modules['model_zoos'] = None\n" + "\n".join(codes)
    script = script.replace("ORG/model_zoos", str(folder))
    script += """
assert len(last) == 14 and set(last.column_names) == {"model_id", "test_acc", "weights"}
generator = torch.Generator().manual_seed(0)
outputs = network(torch.randn(5, 1, 28, 28, generator=generator))
print(json.dumps([row["model_id"], row["epoch"], outputs.tolist()]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    model_id, epoch, outputs = json.loads(done.stdout.splitlines()[-1])
    rows = load_dataset(
        "model_zoos",
        "digits_cnn_s",
        data_dir=str(folder.parent / "zoos"),
        split="train",
        filters=[("model_id", "==", model_id), ("epoch", "==", epoch)],
    )
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model_zoos.instantiate(rows[0])(images)
    torch.testing.assert_close(torch.tensor(outputs), expected)


OWN = (
    "3x20x20 conv4k3s2p1 pool conv5k3:relu drop gap fc7:identity fc10",
    "3x8x8 fc12:softplus drop fc3",
)


@pytest.mark.parametrize(
    ("architecture", "own"),
    [("cnn_s", False), ("cnn_l", False), ("cnn_l", True), *((text, True) for text in OWN)],
)
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "gelu"])
def test_the_layout_rebuilds_every_cnn(architecture: str, own: bool, activation: str) -> None:
    """The function of the card against our own networks, with dropout, in evaluation.

    Args:
        own: whether the repository holds networks that are not in the catalog.
    """
    import jinja2

    from model_zoos.builders.architecture import find_architecture
    from model_zoos.builders.hub.shards import layout_json
    from model_zoos.builders.layout import make_layout

    layout = make_layout(architecture, 3, find_architecture(architecture).classes or 10)
    vector = torch.randn(layout.size, generator=torch.Generator().manual_seed(1))
    row = {"architecture": architecture, "weights": vector.numpy(), "activation": activation}
    card = jinja2.Template(TEMPLATE.read_text()).render(
        has_cnn=True, has_own=own, unions={}, notes=[], figures=[]
    )
    [code] = [block for block in blocks(card) if "def network" in block]
    names = {"row": row, "layout": json.loads(json.dumps(layout_json(layout)))}
    start = code.index("weights = torch.tensor")
    end = code.index("size = layout")
    exec("import math, torch\nimport torch.nn.functional as F\n" + code[start:end], names)
    images = torch.randn(4, 3, layout_json(layout)["image_size"], layout_json(layout)["image_size"])
    with torch.no_grad():
        expected = model_zoos.instantiate({**row, "dropout": 0.5})(images)
    torch.testing.assert_close(names["network"](images), expected)


def test_the_image_table_is_that_of_the_image_sources() -> None:
    rows = re.findall(
        r"^\| (\S.*?) \| (\dx\d+x\d+) \| (.*?) ?\| (0[\d., ]+) \| (0[\d., ]+) \| (.*?) \|$",
        TEMPLATE.read_text(),
        re.MULTILINE,
    )
    assert len(rows) == len(IMAGE_SOURCES)

    def numbers(text: str, channels: int) -> list[float]:
        values = [float(value) for value in text.split(", ")]
        return values * channels if len(values) == 1 else values

    for row, source in zip(rows, IMAGE_SOURCES.values(), strict=True):
        title, shape, transform, mean, std, sizes = row
        plain = re.sub(r"[^a-z0-9]", "", title.lower().partition(" (")[0])
        assert plain == re.sub(r"[^a-z0-9]", "", source.name) or source.name.startswith(plain)
        grey = source.grey and source.shape[0] == 3
        assert shape == "x".join(map(str, (1, *source.shape[1:]) if grey else source.shape))
        assert (transform == "mean of the channels") == grey
        kinds = {"resize": "Resize", "grayscale": "Grayscale", "centre crop": "CenterCrop"}
        expected = [kinds[word] for word in transform.split(", ") if word and not grey]
        assert expected == [name for name, _ in source.transform]
        assert numbers(mean, source.shape[0]) == pytest.approx(source.mean, abs=5e-5)
        assert numbers(std, source.shape[0]) == pytest.approx(source.std, abs=5e-5)
        assert sizes.split(" / ") == [f"{n:,}" if n else "-" for n in source.sizes]


def test_the_catalog_knows_all_image_sources() -> None:
    assert set(IMAGE_SOURCES) == IMAGE_SETS


def test_images_are_split_as_the_card_says() -> None:
    """By its rule alone, on scikit-learn's digits: which image is where, and its pixels."""
    digits, ours = load_digits(), load_images("digits")
    order = torch.randperm(1437, generator=torch.Generator().manual_seed(42)).tolist()
    for split, chosen in (
        ("train", order[:1200]),
        ("validation", order[1200:]),
        ("test", list(range(1437, 1797))),
    ):
        part = getattr(ours, split)
        assert part.labels.tolist() == digits.target[chosen].tolist()
        small = np.rint(digits.images[chosen[7]] * 255 / 16).astype(np.uint8)
        resized = Image.fromarray(small).resize((28, 28), Image.Resampling.BILINEAR)
        assert np.array_equal(part.pixels[7, 0].numpy(), np.asarray(resized))


def test_the_resnet_part_appears_with_a_resnet_zoo(folder: Path) -> None:
    zoos = read_contents(folder).zoos
    resnet = dataclasses.replace(zoos[0], zoo=zoo_spec("cifar10_resnet18"))
    text = render_card(Contents((resnet, *zoos)))
    assert "`cifar10_resnet18` | ResNet-18 | 11,183,562 |" in text
    assert "ResNet-18 is torchvision's" in text
    assert "pre_buffer=False" in text
    assert card_data(Contents((resnet,))).configs[0]["config_name"] == "cifar10_resnet18"
    assert "def network" not in render_card(Contents((resnet,)))


# --- Images of one's own, provenance and licence --------------------------------------------------


@pytest.fixture(scope="module")
def own_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images in a folder, and two models and their twins that were trained on them."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 5)):
        for label, name in enumerate("ab"):
            folder = root / "images/pets" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                values = rng.integers(80 * label, 80 * label + 120, (9, 9, 3), np.uint8)
                Image.fromarray(values).save(folder / f"{number}.png")
    settings = {"size": [12, 12], "mean": [0.25, 0.5, 0.125], "std": [0.3, 0.3, 0.3]}
    (root / "images/pets/images.json").write_text(json.dumps(settings))
    values = zoo_spec("mnist_cnn_s_seed").to_json() | {"doi": None, "published": False}
    values |= {"name": "my_pets", "image_dataset": "pets", "images": "folder/pets", "classes": 2}
    values |= {"architecture": "3x12x12 conv4k3 pool fc2", "channels": 3, "seeds": 2, "epochs": 2}
    images = load_images("folder/pets", root / "images")
    generate(Zoo.from_json(values), root / "zoos", images)
    parents = open_zoo(root / "zoos", "my_pets")
    sparsify(parents, root / "zoos", images, twins=TwinOptions(epochs=1))
    return root


def images_section(text: str) -> str:
    return text.partition("## Images")[2].partition("## The zoos")[0]


def provenance_section(text: str) -> str:
    return " ".join(text.partition("## Provenance")[2].split())


def test_a_reader_can_repeat_an_accuracy_on_ones_own_images(own_root: Path, tmp_path: Path) -> None:
    """With the folder of images, the table and the network of the card, without our package."""
    build_folder(["my_pets", "my_pets_sparse"], own_root / "zoos", tmp_path)
    text = (tmp_path / "README.md").read_text()
    section = images_section(text)
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert rows == ["| `pets` | 3x12x12 | | 0.25, 0.5, 0.125 | 0.3 | 12 / - / 10 |"]
    assert "MNIST" not in text.partition("## Columns")[2]
    assert "randperm" not in text
    assert "`pets`: images of this repository's authors, which are not included." in section
    assert "The models of `my_pets`, `my_pets_sparse` were" in section

    _, _, size, _, mean, std, _, _ = (cell.strip() for cell in rows[0].split("|"))
    _, height, width = map(int, size.split("x"))
    mean, std = (np.array([float(x) for x in cell.split(", ")]) for cell in (mean, std))
    pixels, labels = [], []
    for label, folder in enumerate(sorted((own_root / "images/pets/test").iterdir())):
        for path in sorted(folder.iterdir()):
            image = Image.open(path).convert("RGB").resize((width, height), Image.BILINEAR)
            pixels.append((np.asarray(image) / 255 - mean) / std)
            labels.append(label)
    x = torch.tensor(np.stack(pixels), dtype=torch.float32).permute(0, 3, 1, 2)
    [code] = [block for block in blocks(text) if "def network" in block]
    names: dict[str, Any] = {}
    exec(code.replace("ORG/model_zoos", str(tmp_path)), names)
    with torch.no_grad():
        logits = names["network"](x)
    target, row = torch.tensor(labels), names["row"]
    assert (logits.argmax(1) == target).float().mean() == pytest.approx(row["test_acc"])
    loss = torch.nn.functional.cross_entropy(logits, target).item()
    assert loss == pytest.approx(row["test_loss"], rel=1e-5)


def test_a_zoo_of_an_earlier_version_is_resumed_and_built(own_root: Path, tmp_path: Path) -> None:
    """Its zoo.json says less of the images, and stays as it is."""
    shutil.copytree(own_root / "zoos", tmp_path / "zoos")
    directory = open_zoo(tmp_path / "zoos", "my_pets")
    path = directory.path / "zoo.json"
    info = json.loads(path.read_text())
    earlier = ("name", "sha256", "verified")
    assert {*info["images"]} == {*earlier, "shape", "mean", "std", "sizes"}
    info["images"] = {key: info["images"][key] for key in earlier}
    path.write_text(json.dumps(info))
    directory.files()[0].unlink()
    images = load_images("folder/pets", own_root / "images")
    assert generate(directory.zoo, tmp_path / "zoos", images).models == 1
    assert json.loads(path.read_text()) == info
    other = dataclasses.replace(images, mean=(0.5, 0.5, 0.5))
    with pytest.raises(FaultyZoo, match=r"trained on other images"):
        generate(directory.zoo, tmp_path / "zoos", other)
    build_folder(["my_pets"], tmp_path / "zoos", tmp_path / "out")
    assert "\n| `pets` | ? | | ? | ? | ? |\n" in (tmp_path / "out/README.md").read_text()
    # Its twins know more.
    build_folder(["my_pets_sparse"], tmp_path / "zoos", tmp_path / "out")
    section = images_section((tmp_path / "out/README.md").read_text())
    assert section.count("| `pets` |") == section.count("| `pets` | 3x12x12 |") == 1


def test_images_of_the_catalog_are_recorded_as_before(digits_home: Path) -> None:
    found = open_zoo(digits_home, "digits_cnn_s").info["images"]
    assert [*found] == ["name", "sha256", "verified"]


def entry(folder: Path, **changes: Any) -> ZooEntry:
    """The entry of the digits with other facts."""
    [digits] = [zoo for zoo in read_contents(folder).zoos if zoo.name == "digits_cnn_s"]
    provenance = changes.pop("provenance", digits.provenance)
    return dataclasses.replace(
        digits, zoo=dataclasses.replace(digits.zoo, **changes), provenance=provenance
    )


def test_own_images_stand_before_those_of_the_catalog(folder: Path) -> None:
    hostile = {"name": "folder/a|b`\n# c", "shape": ["x"], "mean": "0.5", "std": [0.5], "sizes": 3}
    mine = entry(folder, name="mine", provenance={"engine": "lanes", "images": hostile})
    unknown = entry(folder, name="unknown_images", images="unknown", provenance={"source": {}})
    only = Contents((entry(folder),))
    text = render_card(Contents((*only.zoos, mine, unknown)))
    rows = [line for line in images_section(text).splitlines() if line.startswith("|")][2:]
    assert rows[0] == "| `a?b?\ufffd# c` | ? | | ? | 0.5 | ? |"
    assert (
        rows[1:]
        == [
            line for line in images_section(render_card(only)).splitlines() if line.startswith("|")
        ][2:]
    )
    assert "not known which images the models of `unknown_images` were" in text
    alone = images_section(render_card(Contents((unknown,))))
    assert alone.strip().startswith("It is not known")
    assert "|" not in alone


PAPER = "The original zoos are by K. Schürholt"
ANEW = "were made anew with model_zoos, after the specification of the paper's zoos: "
ADDED = "made with model_zoos, whose catalog adds them to those of the paper: "
OWN = "are not the paper's, but were made or imported by the authors of this repository: "


def test_the_card_says_whose_the_zoos_are(folder: Path) -> None:
    digits = entry(folder)
    mine = entry(folder, name="mine")
    anew = dataclasses.replace(digits, zoo=zoo_spec("mnist_cnn_s_seed"))
    imported = {"engine": "original", "source": {"file": "mnist.zip"}}
    original = dataclasses.replace(anew, provenance=imported)
    # Twins whose record is not known, and a zoo that has nothing of the paper.
    twins = entry(folder, name="usps_cnn_s_seed_sparse", provenance=imported)
    others = entry(folder, name="mnist_small_cnn", provenance=imported)
    for zoos, said in (
        ([digits], {ADDED: "`digits_cnn_s`."}),
        ([anew], {ANEW: "`mnist_cnn_s_seed`."}),
        ([original], {PAPER: ""}),
        ([twins], {PAPER: ""}),
        ([mine], {OWN: "`mine`."}),
        ([others], {OWN: "`mnist_small_cnn`."}),
        (
            [digits, mine, original, others],
            {PAPER: "", ADDED: "`digits_cnn_s`.", OWN: "`mine`, `mnist_small_cnn`."},
        ),
    ):
        text = render_card(Contents(tuple(zoos)))
        found = provenance_section(text)
        for sentence in (PAPER, ANEW, ADDED, OWN):
            assert (sentence in found) == (sentence in said), (zoos, sentence)
        assert all(sentence + names in found for sentence, names in said.items())
        assert ("Zenodo" in found) == ("The conversion keeps" in found) == (PAPER in said)
        cited = set(said) != {OWN}
        assert ("Please cite the paper: ```bibtex" in found) == ("@inproceedings" in text) == cited
        assert ("\nThe zoos follow [Model Zoos:" in text) == (OWN not in said)
        assert ("\nThe form of the zoos follows [Model Zoos:" in text) == (OWN in said)
        assert "https://arxiv.org/abs/2209.14764" in text
        assert "\n\n\n" not in re.sub(r"^```.*?^```", "code", text, flags=re.DOTALL | re.MULTILINE)


def test_the_licence_is_given_kept_or_refused(folder: Path, tmp_path: Path) -> None:
    home, out, names = folder.parent / "zoos", tmp_path / "out", ["digits_cnn_s"]

    def licence() -> tuple[str, str, str]:
        text = (out / "README.md").read_text()
        [said] = re.findall(r"license of this data set is (.*)\. Please", text)
        croissant = json.loads((out / "croissant.json").read_text())["license"]
        return yaml.safe_load(text.split("---")[1])["license"], said, croissant

    url = "https://creativecommons.org/licenses/by/4.0/"
    build_folder(names, home, out)
    assert licence() == ("cc-by-4.0", f"[CC BY 4.0]({url})", url)
    [summary] = build_folder(names, home, out, licence="Apache-2.0")
    assert licence() == ("apache-2.0",) * 3
    assert summary.written == 0
    build_folder(["mnist_cnn_s"], home, out)
    assert licence() == ("apache-2.0",) * 3
    for wrong in ("", "CC BY 4.0", "mit\nx: 1", "-mit", "x" * 100):
        with pytest.raises(InvalidArgument, match=r"such as mit or cc-by-4\.0, which"):
            build_folder(names, home, out, licence=wrong)
        assert licence() == ("apache-2.0",) * 3
    card = (out / "README.md").read_text()
    (out / "README.md").write_text(card.replace("license: apache-2.0", "license: [mit, x]"))
    with pytest.raises(InvalidArgument, match=r"README\.md: .* found \['mit', 'x'\]"):
        build_folder(names, home, out)
    build_folder(names, home, out, licence="cc-by-4.0")
    assert licence() == ("cc-by-4.0", f"[CC BY 4.0]({url})", url)
    (out / "README.md").write_text("# No YAML\n")
    build_folder(names, home, out)
    assert licence()[0] == "cc-by-4.0"


def test_original_zoos_stay_under_their_licence(folder: Path) -> None:
    imported = {"engine": "original", "source": {"file": "mnist.zip"}}
    original = entry(folder, name="mnist_cnn_s_seed", provenance=imported)
    sentence = "is mit. The original zoos stay under [CC BY 4.0]"
    assert sentence in render_card(Contents((original,)), licence="mit")
    assert "stay under" not in render_card(Contents((original,)))
    assert "stay under" not in render_card(Contents((entry(folder),)), licence="mit")
