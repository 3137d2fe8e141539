"""croissant.json: a built folder described in Croissant 1.1 (MLCommons), for `mlcroissant`.

    dataset = mlcroissant.Dataset("out/croissant.json")
    next(iter(dataset.records("digits_cnn_s/metrics")))

Each zoo has two record sets: its rows and, under `<zoo>/metrics`, the same rows without weights.
`metrics` has those of all zoos. Paths are relative, so that the folder can be moved. The file is
not published: the Hub generates this description of every public data set.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from ..names import METRICS_NAME
from ..schema import row_schema
from ..splits import SPLITS
from .card import TEMPLATE
from .contents import Contents
from .licence import LICENCE, LICENCE_URL
from .names import metrics_file

_TYPES = {
    pa.string(): "sc:Text",
    pa.int32(): "cr:Int32",
    pa.int64(): "cr:Int64",
    pa.float32(): "cr:Float32",
    pa.float64(): "cr:Float64",
}

_PARQUET = "application/x-parquet"

_TERMS = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "excludes", "extract"),
    *("field", "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray"),
    *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references"),
    *("regex", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
    "transform",
)
"""The terms of Croissant that are their own abbreviations in the context."""

_CONTEXT: dict[str, object] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "name": {"@container": "@language"},
    "description": {"@container": "@language"},
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}


def render_croissant(contents: Contents, folder: Path, licence: str = LICENCE) -> bytes:
    """Return the croissant.json of a folder; the same files and licence give the same bytes.

    Args:
        contents: the zoos of the folder.
        folder: folder of the files without weights; their digests are part of the result.
        licence: the Hub's id of the repository's licence.
    """
    distribution: list[dict[str, object]] = []
    records: list[dict[str, object]] = []
    for entry in contents.zoos:
        name, size = entry.name, entry.zoo.layout.size
        paths = [metrics_file(name, split) for split in SPLITS if split in entry.states]
        distribution += [_file(folder, path) for path in paths]
        terms = f" ({'; '.join(entry.terms)})" if entry.terms else ""
        about = f"{sum(entry.states.values()):,} states of {sum(entry.models.values()):,} models"
        for record, kept, pattern, length in (
            (name, "all columns", f"data/{name}/*.parquet", size),
            (f"{name}/{METRICS_NAME}", "without weights", f"metrics/{name}-*.parquet", None),
        ):
            distribution.append(_file_set(record, pattern))
            records.append(_record_set(record, f"{about}, {kept}{terms}", length))
    distribution.append(_file_set(METRICS_NAME, "metrics/*.parquet"))
    records.append(_record_set(METRICS_NAME, "The states of all zoos, without weights", None))
    [citation] = re.findall(r"^```bibtex\n(.*?)^```", TEMPLATE.read_text("utf-8"), re.M | re.S)
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "version": "1.0.0",  # of the rows; no date, which the same files would not determine
        "name": "model_zoos",
        "description": "Populations of small neural networks: the weights of every model at every "
        "epoch, with its losses, accuracies and hyperparameters.",
        "url": "https://arxiv.org/abs/2209.14764",
        "license": LICENCE_URL if licence == LICENCE else licence,
        **({"citeAs": citation.strip()} if contents.follows_paper else {}),
        "keywords": ["model zoo", "weight space learning", "neural network weights"],
        "distribution": distribution,
        "recordSet": records,
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _file(folder: Path, path: str) -> dict[str, object]:
    content = (folder / path).read_bytes()
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{len(content)} B",
        "encodingFormat": _PARQUET,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _file_set(record: str, pattern: str) -> dict[str, object]:
    return {
        "@type": "cr:FileSet",
        "@id": _files_of(record),
        "name": _files_of(record),
        "encodingFormat": _PARQUET,
        "includes": pattern,
    }


def _files_of(record: str) -> str:
    return f"files/{record}"


def _record_set(name: str, about: str, size: int | None) -> dict[str, object]:
    """Describe rows whose weights have length `size`, or that have no weights if it is None."""
    source = {"fileSet": {"@id": _files_of(name)}}
    split = {
        "@type": "cr:Field",
        "@id": f"{name}/split",
        "name": "split",
        "description": "The split of the model, which its file is named after.",
        "dataType": ["sc:Text", "cr:Split"],
        "source": {
            **source,
            "extract": {"fileProperty": "fullpath"},
            "transform": {"regex": rf".*?[/-]({'|'.join(SPLITS)})[-.].*"},
        },
    }
    columns: Iterable[pa.Field] = row_schema(size)
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": about,
        "key": [{"@id": f"{name}/{column}"} for column in ("zoo", "model_id", "epoch")],
        "field": [
            split,
            *(
                {
                    "@type": "cr:Field",
                    "@id": f"{name}/{column.name}",
                    "name": column.name,
                    **_type(column.type),
                    "source": {**source, "extract": {"column": column.name}},
                }
                for column in columns
            ),
        ],
    }


def _type(kind: pa.DataType) -> dict[str, object]:
    if isinstance(kind, pa.FixedSizeListType):
        shape = {"isArray": True, "arrayShape": str(kind.list_size)}
        return {"dataType": _TYPES[kind.value_type], **shape}
    return {"dataType": _TYPES[kind]}
