"""The card of a repository: README.md, made of dataset_card.md and the repository's contents.

    Path("out/README.md").write_text(render_card(read_contents("out"), "me/model_zoos"))

Everything in the card follows from the files, but for the licence and what somebody has written
below its end: the same files give the same card. The YAML at its top makes
`load_dataset(repository, name)` work: for each zoo, each union whose parts are all there, and
`metrics`, it says which files are which split.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InvalidArgument
from ..architecture import ARCHITECTURES
from ..catalog import (
    IMAGE_FOLDER,
    METRICS_NAME,
    UNKNOWN_IMAGES,
    ZOOS,
    dense_name,
    has_images,
)
from ..machine import byte_size
from ..schema import row_features
from ..splits import SPLITS
from ..untrusted import printable
from .contents import Contents, ZooEntry
from .licence import LICENCE, licence_text
from .merge import END, parse_card, patterns_of
from .names import layout_file

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

TEMPLATE = Path(__file__).resolve().parents[2] / "dataset_card.md"
"""The template lies at the root, in a checkout as in a wheel."""

UNFINISHED = "a build was interrupted here: run it again to finish it"
"""The file pattern in the card of a folder whose only zoo is being built anew. `datasets` says that
it finds no such files."""

PLACEHOLDER = "ORG/model_zoos"
"""Name of the repository where the real one is not known yet."""


def card_data(
    contents: Contents, *, folder: bool = False, licence: str = LICENCE
) -> DatasetCardData:
    """Return the YAML at the top of the card.

    It has no numbers of rows: datasets would compare them with what `filters=` leaves.

    Args:
        contents: the zoos and figures of the repository.
        folder: whether the card is that of a folder. Then each config has a digest of its files as
            its description: the cache of datasets depends on the card of a folder alone.
        licence: the Hub's id of the licence.
    """
    import datasets
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    images = sorted({zoo.zoo.image_dataset for zoo in contents.zoos})
    data = DatasetCardData(
        pretty_name="Model Zoos",
        license=licence,
        task_categories=["other", "feature-extraction"],
        tags=[
            "model-zoo",
            "weight-space-learning",
            "neural-network-weights",
            "hyper-representations",
            "arxiv:2209.14764",
            *(name.replace("_", "-") for name in images),
        ],
        size_categories=[size_category(sum(sum(z.states.values()) for z in contents.zoos))],
    )
    configs: dict[str, dict[str, object]] = {}
    infos = {}
    for name, parts in contents.configs.items():
        files: list[dict[str, object]] = []
        for split in SPLITS:
            zoos = [part.name for part in parts if split in part.states]
            paths = [f"data/{zoo}/{split}-*.parquet" for zoo in zoos]
            if zoos:
                metrics = f"metrics/*-{split}.parquet"
                files.append({"split": split, "path": metrics if name == METRICS_NAME else paths})
        configs[name] = {"data_files": files}
        if folder:
            digests = "".join(part.digest for part in parts)
            configs[name]["description"] = hashlib.sha256(digests.encode()).hexdigest()
        size: int | None = parts[0].zoo.layout.size
        if name == METRICS_NAME:
            configs[name]["default"] = True
            size = None
        infos[name] = datasets.DatasetInfo(features=row_features(size))
    MetadataConfigs(configs).to_dataset_card_data(data)
    DatasetInfosDict(infos).to_dataset_card_data(data)
    return data


def unfinished_card(text: str, zoo: str) -> str:
    """Return a card by which `datasets` loads nothing that has rows of a zoo.

    While a zoo is built anew, some of its files are missing. What `datasets` loaded then would also
    stay in its cache, for the same files later.

    Args:
        text: the card of the folder.
        zoo: the zoo that is built.

    Raises:
        InvalidArgument: its header is not the metadata of a card.
    """
    from huggingface_hub import DatasetCardData

    data, rest = parse_card(text)
    kept = [
        config
        for config in data.get("configs", ())
        if not any(p.startswith(("metrics/", f"data/{zoo}/")) for p in patterns_of(config))
    ]
    # A card without configs would let datasets find files by itself.
    data["configs"] = kept or [{"config_name": METRICS_NAME, "data_files": UNFINISHED}]
    names = [config.get("config_name") for config in kept]
    infos = data.pop("dataset_info", ())
    if found := [info for info in infos if info.get("config_name") in names]:
        data["dataset_info"] = found
    return f"---\n{DatasetCardData(**data).to_yaml(original_order=list(data))}\n---\n{rest}"


def size_category(rows: int) -> str:
    """Return the Hub's id of the size of a data set, such as `1K<n<10K`."""
    steps = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    power = max(len(str(rows)) - 4, -1)
    return f"n<{steps[0]}" if power < 0 else f"{steps[power]}<n<{steps[power + 1]}"


def render_card(contents: Contents, repo_id: str = PLACEHOLDER, *, licence: str = LICENCE) -> str:
    """Return the README.md of a repository: YAML, then dataset_card.md with its blanks filled in.

    Args:
        contents: the zoos and figures of the repository.
        repo_id: name of the repository, for the examples.
        licence: the Hub's id of the licence.

    Raises:
        InvalidArgument: the repository has no zoo.
    """
    from huggingface_hub import DatasetCard

    if not contents.zoos:
        raise InvalidArgument("a card describes at least one zoo: build one first")
    cnns = [zoo for zoo in contents.zoos if not zoo.zoo.layout.architecture.file_per_state]
    example = (cnns or list(contents.zoos))[0]
    catalog = [zoo.name for zoo in contents.zoos if zoo.maker == "catalog"]
    anew = [name for name in catalog if ZOOS[dense_name(name)].doi]
    image_names = {zoo.name: zoo.images["name"] for zoo in contents.zoos}
    card = DatasetCard.from_template(
        card_data(contents, folder=repo_id == PLACEHOLDER, licence=licence),
        template_path=str(TEMPLATE),
        repo_id=repo_id,
        example=example.name,
        example_layout=layout_file(example.zoo.layout),
        example_is_own=example.zoo.architecture not in ARCHITECTURES,
        has_own=any(zoo.zoo.architecture not in ARCHITECTURES for zoo in contents.zoos),
        example_split=next(iter(example.states)),
        example_epoch=example.zoo.epochs,
        zoo_table=_zoo_table(contents.zoos),
        unions={
            name: [part.name for part in parts]
            for name, parts in contents.configs.items()
            if len(parts) > 1 and name != METRICS_NAME
        },
        notes=[(zoo.name, zoo.zoo.note) for zoo in contents.zoos if zoo.zoo.note],
        terms=[(zoo.name, "; ".join(zoo.terms)) for zoo in contents.zoos if zoo.terms],
        figures=[(path, Path(path).stem.replace("-", " ")) for path in contents.figures],
        has_cnn=bool(cnns),
        resnet=next((zoo.name for zoo in contents.zoos if zoo not in cnns), None),
        has_twins=any(dense_name(zoo.name) != zoo.name for zoo in contents.zoos),
        catalog_images=any(map(_has_catalog_images, contents.zoos)),
        own_images=_own_images(contents.zoos),
        own_files=any(name.startswith(IMAGE_FOLDER) for name in image_names.values()),
        unknown_images=_listed(zoo for zoo, name in image_names.items() if name == UNKNOWN_IMAGES),
        has_original=any(zoo.maker == "paper" for zoo in contents.zoos),
        anew=_listed(anew),
        added=_listed(name for name in catalog if name not in anew),
        own_zoos=_listed(zoo.name for zoo in contents.zoos if zoo.maker == "own"),
        cite=contents.follows_paper,
        licence=licence_text(licence),
        original_licence=licence_text(LICENCE),
    )
    return str(card).rstrip() + "\n"


def published_card(text: str, repo_id: str, contents: Contents) -> str:
    """Return the card of a folder as that of a repository: with its name, and without digests.

    What people have written stays as it is: the text below the end of ours, the notes of zoos,
    what their sources ask for, and names in the tables.

    Args:
        text: the card of the folder.
        repo_id: name of the repository.
        contents: what the folder holds.
    """
    before, end, below = text.partition(END)
    before = re.sub(r"\n  description: [0-9a-f]{64}(?=\n)", "", before)
    notes = [f"`{zoo.name}`: {zoo.zoo.note}." for zoo in contents.zoos]
    terms = [f"- `{zoo.name}`: {'; '.join(zoo.terms)}" for zoo in contents.zoos]
    own = [re.escape(line) for line in (*notes, *terms) if PLACEHOLDER in line]
    pattern = "|".join([r"^\|.*$", *own, re.escape(PLACEHOLDER)])

    def named(match: re.Match[str]) -> str:
        return repo_id if match[0] == PLACEHOLDER else match[0]

    return re.sub(pattern, named, before, flags=re.MULTILINE) + end + below


def _zoo_table(zoos: Sequence[ZooEntry]) -> str:
    rows = [
        "| config | architecture | weights | models (train / val / test) | states | size | "
        "test accuracy | origin |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for zoo in zoos:
        models = " / ".join(f"{zoo.models.get(split, 0):,}" for split in SPLITS)
        accuracy = "-" if zoo.test_acc is None else f"{zoo.test_acc:.1%}"
        rows.append(
            f"| `{zoo.name}` | {zoo.zoo.layout.architecture.title} | "
            f"{zoo.zoo.layout.size:,} | {models} | {sum(zoo.states.values()):,} | "
            f"{byte_size(zoo.file_bytes, 'MB')} | {accuracy} | {zoo.origin} |"
        )
    return "\n".join(rows)


def _listed(names: Iterable[str]) -> str:
    """Return names as Markdown; an empty text for no names."""
    return ", ".join(f"`{name}`" for name in names)


def _has_catalog_images(zoo: ZooEntry) -> bool:
    """Whether the models of a zoo were trained on an image data set of the catalog."""
    return "shape" not in zoo.images and has_images(zoo.images["name"])


def _own_images(zoos: Sequence[ZooEntry]) -> list[tuple[str, str, str]]:
    """Return the image data sets that are not of the catalog, sorted by name.

    Returns:
        For each its title, its row in the table of images, and the names of its zoos, as Markdown.
    """
    found: dict[tuple[str, str], list[ZooEntry]] = {}
    for zoo in zoos:
        name = zoo.images["name"]
        if name != UNKNOWN_IMAGES and not _has_catalog_images(zoo):
            found.setdefault((name, str(zoo.images.get("sha256"))), []).append(zoo)
    sets = []
    for (name, _), own in sorted(found.items()):
        plain = printable(name.removeprefix(IMAGE_FOLDER))[:100]
        title = f"`{re.sub(r'[|`]', '?', plain)}`"
        # A zoo that was begun with an earlier version says less than its twins.
        images = max((zoo.images for zoo in own), key=len)
        sets.append((title, _image_row(title, images), _listed(zoo.name for zoo in own)))
    return sets


def _image_row(title: str, images: Mapping[str, Any]) -> str:
    """Return a row of the table of images; a question mark stands for what zoo.json lacks."""

    def values(key: str) -> Sequence[int | float | None]:
        found = images.get(key)
        if not isinstance(found, list) or len(found) > 3:
            return []
        return found if all(type(value) in (int, float, type(None)) for value in found) else []

    grey = images.get("grey") is True
    shape = [1, *values("shape")[1:]] if grey and values("shape") else values("shape")
    size = "x".join(map(str, shape)) or "?"
    sizes = " / ".join("-" if x is None else f"{x:,}" for x in values("sizes")) or "?"
    mean, std = (
        ", ".join(map(str, found[:1] if len(set(found)) == 1 else found)) or "?"
        for found in (values("mean"), values("std"))
    )
    transform = "mean of the channels " if grey else ""
    return f"| {title} | {size} | {transform}| {mean} | {std} | {sizes} |"
