"""What several tests use: layouts, and reference data that is too large for this repository.

MODEL_ZOOS_SHARED names the folder of the reference data (default: ../shared beside the checkout).
Tests that need it are skipped where it is absent.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_zoos.builders.layout import Layout, make_layout
from model_zoos.builders.manifest import MANIFEST
from model_zoos.builders.specification import Model
from model_zoos.generation.engines.reference import cpu_kind
from model_zoos.generation.images import ImageData, Images, load_images
from model_zoos.generation.options import TrainOptions, TwinOptions

SHARED = Path(os.environ.get("MODEL_ZOOS_SHARED") or Path(__file__).resolve().parents[2] / "shared")
needs_shared = pytest.mark.skipif(
    not (SHARED / "data").is_dir(),
    reason="the reference data is absent: MODEL_ZOOS_SHARED does not name its folder",
)


def contents(root: Path) -> dict[str, bytes]:
    """Return the files below a folder, but locks and manifests: path with slashes -> content."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name != MANIFEST
    }


@dataclass(frozen=True)
class Trial:
    """One model of a raw zoo, as the paper's code wrote it."""

    name: str
    model: Model
    weights: dict[int, np.ndarray]  # epoch -> float32 [N]
    metrics: dict[int, dict[str, float]]  # epoch -> name -> value


def raw_zoo(name: str, layout: Layout) -> list[Trial]:
    """Read all trials of a zip of the reference data in the simplest way (trusted files only)."""
    trials = []
    with zipfile.ZipFile(SHARED / "data" / "raw_zoos" / f"{name}.zip") as archive:
        files = archive.namelist()
        for folder in sorted(f.removesuffix("params.json") for f in files if "params.json" in f):
            params = json.loads(archive.read(f"{folder}params.json"))
            lines = archive.read(f"{folder}result.json").decode().splitlines()
            results = {r["training_iteration"]: r for r in map(json.loads, lines)}
            weights = {}
            for file in files:
                if file.startswith(f"{folder}checkpoint_") and file.endswith("/checkpoints"):
                    state = torch.load(io.BytesIO(archive.read(file)), weights_only=True)
                    epoch = int(file.split("/")[-2].removeprefix("checkpoint_"))
                    weights[epoch] = layout.to_vector(state)
            trials.append(
                Trial(
                    name=folder.rstrip("/").rpartition("/")[2],
                    model=Model(
                        zoo=name,
                        activation=params["model::nlin"],
                        init=params["model::init_type"],
                        dropout=params["model::dropout"],
                        optimizer=params["optim::optimizer"],
                        learning_rate=params["optim::lr"],
                        weight_decay=params["optim::wd"],
                        momentum=params.get("optim::momentum"),
                        batch_size=params["training::batchsize"],
                        epochs=params["training::epochs_train"],
                        scheduler=None,
                        seed=params["seed"],
                    ),
                    weights=weights,
                    metrics=results,
                )
            )
    return trials


def raw_zoo_images(*, validation: bool, large: bool = False) -> ImageData:
    """Return the MNIST subset that the raw zoos were trained on (source: their data sheet).

    Args:
        validation: whether the zoo has a validation set.
        large: for CNN-l: fewer images, padded to 32x32 with -1 and repeated to 3 channels.
    """
    n_train, n_val, n_test = (1000, 300, 300) if large else (2000, 500, 500)
    mnist = load_images("mnist", SHARED / "data").subset(
        train=slice(n_train), validation=slice(n_val), test=slice(n_test)
    )

    def change(images: Images) -> Images:
        if not large:
            return images
        padded = torch.nn.functional.pad(images.pixels, (2, 2, 2, 2))  # 0 becomes -1
        return Images(padded.expand(-1, 3, -1, -1).contiguous(), images.labels)

    channels = 3 if large else 1
    return dataclasses.replace(
        mnist,
        name="mnist subset",
        train=change(mnist.train),
        validation=change(mnist.validation) if validation else None,
        test=change(mnist.test),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )


SAME_SUMS = cpu_kind() == "AVX512 GenuineIntel"
"""Whether torch adds in the same order as on the machine where the raw zoos were trained. On other
processors, even an AMD EPYC with AVX-512, the order differs."""

SEED_ZOO = "tune_zoo_mnist_kaiming_uniform"
HYPERPARAMETER_ZOO = "tune_zoo_mnist_hyperparameter_10_fixed_seed"
LARGE_ZOO = "tune_zoo_mnist32_uniform_large"
CNN_S = make_layout("cnn_s", 1)
CNN_L = make_layout("cnn_l", 3)


def grouped(**flat: Any) -> dict[str, Any]:
    """Arguments of `generate` or `sparsify`, with the fields of their options as records.

    >>> grouped(models=1, engine="lanes")
    {'models': 1, 'options': TrainOptions(engine='lanes', ...)}
    """
    arguments: dict[str, Any] = dict(flat)
    for name, kind in (("options", TrainOptions), ("twins", TwinOptions)):
        fields = [field.name for field in dataclasses.fields(kind)]
        own = {key: arguments.pop(key) for key in fields if key in arguments}
        if own:
            arguments[name] = kind(**own)
    return arguments
