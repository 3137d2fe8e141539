"""Digests of every bit of a data set's columns; also a script that runs without our package.

python bits.py JSON        {"loads": [[path, name], ...], "unions": {name: [part, ...]}}
                           prints {"path:name": {mode: {split: digests}}}
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import numpy as np
import pyarrow as pa

MODES = ("map", "streaming")


def digests(dataset: Any) -> dict[str, Any]:
    """Return column -> digest of values and nulls, in row order, and the number of rows.

    NaN equals NaN of the same bits; -0.0 and 0.0 differ; batches do not matter.
    """
    tables = list(dataset.with_format("arrow").iter(batch_size=100))
    table = pa.concat_tables(tables)
    found: dict[str, Any] = {"rows": len(table)}
    for name in table.column_names:
        column = table[name].combine_chunks()
        digest = hashlib.sha256(np.packbits(column.is_valid().to_numpy(zero_copy_only=False)))
        if pa.types.is_string(column.type) or pa.types.is_list(column.type):
            digest.update(json.dumps(column.to_pylist()).encode())
        else:
            values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
            digest.update(f"{values.type}".encode())
            digest.update(values.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
        found[name] = digest.hexdigest()
    return found


def main() -> None:
    sys.modules["model_zoos"] = None  # type: ignore[assignment]  # importing it now fails
    from datasets import concatenate_datasets, disable_progress_bars, load_dataset

    disable_progress_bars()
    request = json.loads(sys.argv[1])
    answer: dict[str, Any] = {}
    for path, name in request["loads"]:
        loaded = {mode: load_dataset(path, name, streaming=mode == "streaming") for mode in MODES}
        found = {
            mode: {split: digests(rows) for split, rows in splits.items()}
            for mode, splits in loaded.items()
        }
        found["features"] = {split: str(rows.features) for split, rows in loaded["map"].items()}
        answer[f"{path}:{name}"] = found
    path = request["loads"][0][0]
    for name, parts in request["unions"].items():
        loaded = [load_dataset(path, part) for part in parts]
        answer[f"{path}:{name}"]["parts"] = {
            split: digests(concatenate_datasets([part[split] for part in loaded]))
            for split in loaded[0]
        }
    answer["default"] = {split: digests(rows) for split, rows in load_dataset(path).items()}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
