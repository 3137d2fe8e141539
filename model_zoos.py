"""Model zoos as ordinary data sets.

    from datasets import load_dataset
    import model_zoos

    ds = load_dataset("model_zoos", "digits_cnn_s", split="train")
    net = model_zoos.instantiate(ds[0])          # a runnable torch.nn.Module
    w = model_zoos.weights(ds)                   # all weights as one tensor [rows, N]

Importing this package registers the name "model_zoos" with datasets, at once or when datasets is
imported. It imports neither datasets nor torch: functions that need them do when they are called.
"""

from __future__ import annotations

import sys

if (
    sys.argv[0].endswith(("/model-zoos", "model_zoos.py"))
    or (
        sys.argv[0] == "-m"  # while the module that is named after it is imported
        and sys.orig_argv[-len(sys.argv) :][:1] in (["model_zoos"], ["model_zoos.cli"])
    )
):
    # Ctrl-C while the command imports what follows: a line, as later (cli.display). Up to Python
    # 3.11, an interrupted `__set_name__` raises a RuntimeError that Ctrl-C caused.
    sys.excepthook = lambda kind, error, trace: (
        print("interrupted", file=sys.stderr)
        if KeyboardInterrupt in (kind, type(error.__cause__))
        else sys.__excepthook__(kind, error, trace)
    )

import importlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if "__path__" not in globals():  # a checkout, where this file is no package's __init__.py
    __path__ = [str(Path(__file__).resolve().parent)]

from model_zoos import errors, weight_space
from model_zoos.builders.access import as_vector, check_row, dropout_of, layer, layout_of, weights
from model_zoos.builders.arguments import check_kind
from model_zoos.builders.catalog import list_zoos, zoo_spec
from model_zoos.builders.homes import zoo_to_train
from model_zoos.builders.homes import zoos_home as zoos_home
from model_zoos.builders.registration import register
from model_zoos.builders.source_columns import source_columns
from model_zoos.builders.specification import Zoo
from model_zoos.builders.zoo_directory import create_zoo, open_zoo

# Names of version 0.1.
from model_zoos.errors import FaultyFile as FaultyFile
from model_zoos.errors import FaultyFilesWarning as FaultyFilesWarning
from model_zoos.errors import FaultyZoo as FaultyZoo
from model_zoos.errors import HubFailed as HubFailed
from model_zoos.errors import UnknownZoo as UnknownZoo
from model_zoos.errors import ZooNotFound as ZooNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from model_zoos.builders.dataset import ModelZoos as ModelZoos
    from model_zoos.builders.zoo_directory import ZooDirectory
    from model_zoos.generation.generate import Publisher
    from model_zoos.generation.images import ImageData, ImageSource
    from model_zoos.generation.job import Progress, Summary
    from model_zoos.generation.options import TrainOptions, TwinOptions
    from model_zoos.weight_space import *  # noqa: F403

__version__ = "0.1.0"
__all__ = [
    "Zoo",
    "create_zoo",
    "errors",
    "generate",
    "instantiate",
    "layer",
    "layout_of",
    "list_zoos",
    "load_images",
    "open_zoo",
    "source_columns",
    "sparsify",
    "weights",
    "zoo_spec",
]
__all__ += weight_space.__all__

get_zoo = zoo_spec


def instantiate(row: Mapping[str, object]) -> torch.nn.Module:
    """Make the network that a row describes, in evaluation mode.

    Args:
        row: a row with the columns architecture, weights and activation; dropout is 0 if it has
            no such column.

    Returns:
        A module from images float32 [n, c, h, w], normalised as at training, to logits
        [n, classes].

    Raises:
        InvalidArgument: it is not one row, or lacks a column.
        ValueError: the architecture is unknown, or has another number of weights.
    """
    values = check_row(row, ("architecture", "weights", "activation"))
    layout = layout_of(row)
    from model_zoos.generation import networks

    weights, dropout = as_vector(values["weights"]), dropout_of(values)
    return networks.instantiate(layout, values["activation"], weights, dropout)


def load_images(
    name: str | os.PathLike[str] | ImageSource,
    images_dir: str | os.PathLike[str] | None = None,
    *,
    channels: int | None = None,
    download: bool = False,
    allow_unverified: bool = False,
    progress: bool = True,
) -> ImageData:
    """Load an image data set with the transforms and the split used to train zoos.

    Args:
        name: key of an image data set, such as `zoo.images`, or your own ImageSource.
        images_dir: folder of image files; MODEL_ZOOS_IMAGES, else ./images by default.
        channels: for a folder of image files, 1 to read them in grey or 3 in colour. None: as many
            as images.json has means, else 1 if all training images are grey, else 3. Every other
            set has its own number, and another one is refused.
        download: whether to download files that are missing.
        allow_unverified: whether to use files that are not the original ones.
        progress: whether to show progress.

    Raises:
        InvalidArgument: no such image data set, or it does not have so many channels.
        ImageFilesError: the files are missing, damaged, or not the original ones.
    """
    from model_zoos.generation import images

    return images.load_images(
        name,
        images_dir,
        channels=channels,
        download=download,
        allow_unverified=allow_unverified,
        progress=progress,
    )


def generate(
    zoo: Zoo | str | os.PathLike[str],
    root: str | os.PathLike[str],
    images: ImageData | ImageSource | str | None = None,
    *,
    models: int | None = None,
    options: TrainOptions | None = None,
    publisher: Publisher | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Train a zoo into `<root>/<zoo>/`, or resume its training.

    Args:
        zoo: specification of the zoo, from `zoo_spec(name)` or `Zoo.from_json`; or a name
            of the catalog, the path of a JSON file, or the name of a zoo directory in `root`.
        root: folder of all zoos.
        images: the images that `zoo.images` names: from `load_images`, or a name or source, which
            is read with the defaults of `load_images`; None for this name.
        models: number of models, from the first of the zoo; all by default.
        options: engine, threads, device and more (generation.options); automatic by default.
        publisher: uploads finished models while others train.
        on_progress: called about five times a second, with a generation.job.Progress.

    Returns:
        A summary of the training (generation.job.Summary).

    Raises:
        UnknownZoo: there is no zoo of this name.
        InvalidArgument: arguments of another type, or that do not fit together.
        ValueError: models is below 1 or above the number of the zoo.
        ImageFilesError: the images are missing, damaged, or not the original ones.
        FaultyZoo: the folder holds a zoo of this name that was made in another way.
        NotEnoughSpace, HubFailed, AlreadyRunning, TrainingFailed, LanesUnavailable,
            CudaUnavailable: see `generation.generate.generate`.

    Example:
        >>> model_zoos.generate("digits_cnn_s", "zoos", "digits")  # doctest: +SKIP
    """
    from model_zoos.generation import generate as training
    from model_zoos.generation.images import named_images
    from model_zoos.generation.options import TrainOptions

    if isinstance(zoo, str | os.PathLike):
        zoo = zoo_to_train(os.fsdecode(zoo), Path(root).expanduser())
    check_kind(zoo, Zoo, "zoo must be a name, the path of a JSON file or a model_zoos.Zoo")
    options = options or TrainOptions()
    check_kind(options, TrainOptions, "options must be model_zoos.generation.options.TrainOptions")
    training.check_generate(zoo, root, models, options, publisher)  # before images are read
    return training.generate(
        zoo,
        root,
        named_images(zoo.images if images is None else images, zoo.layout),
        models=models,
        options=options,
        publisher=publisher,
        on_progress=on_progress,
    )


def sparsify(
    parents: ZooDirectory | str,
    root: str | os.PathLike[str],
    images: ImageData | ImageSource | str | None = None,
    *,
    models: int | None = None,
    twins: TwinOptions | None = None,
    options: TrainOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Train sparse twins of a zoo's models, or resume their training.

    Args:
        parents: the dense zoo, generated or imported: from `open_zoo`, or the name of one in
            `root`.
        root: folder of all zoos.
        images: the images on which the parents were trained; see `generate`.
        models: number of parents, from the first of the zoo; all by default.
        twins: method, levels, epochs and seed (generation.options); variational dropout by default.
        options, on_progress: see `generate`.

    Returns:
        A summary of the training (generation.job.Summary).

    Raises:
        ZooNotFound: there is no zoo of this name in `root`.
        InvalidArgument: arguments of another type, or that do not fit together.
        ValueError, ImageFilesError, FaultyZoo, TrainingFailed, LanesUnavailable, CudaUnavailable:
            see `generate`.
    """
    from model_zoos.builders.zoo_directory import ZooDirectory
    from model_zoos.generation import sparsify as training
    from model_zoos.generation.images import named_images
    from model_zoos.generation.options import TrainOptions, TwinOptions

    parents = open_zoo(root, parents) if isinstance(parents, str) else parents
    check_kind(parents, ZooDirectory, "parents must be what open_zoo returns, or a zoo's name")
    options, twins = options or TrainOptions(), twins or TwinOptions()
    check_kind(options, TrainOptions, "options must be model_zoos.generation.options.TrainOptions")
    check_kind(twins, TwinOptions, "twins must be model_zoos.generation.options.TwinOptions")
    training.check_sparsify(parents, models, twins, options)
    return training.sparsify(
        parents,
        root,
        named_images(
            training.image_name(parents) if images is None else images, parents.zoo.layout
        ),
        models=models,
        twins=twins,
        options=options,
        on_progress=on_progress,
    )


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Return a name of weight_space or of the builder; its module is imported on first use."""
        if name in weight_space.__all__:
            return getattr(weight_space, name)
        if name == "ModelZoos":
            from model_zoos.builders.dataset import ModelZoos

            return ModelZoos
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _import_extensions() -> None:
    """Import the user's modules that MODEL_ZOOS_EXTENSIONS names, which add entries to our tables.

    See docs/extend.md. This runs in each process and in the command.
    """
    names = os.environ.get("MODEL_ZOOS_EXTENSIONS", "").replace(",", " ").split()
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a user's module is expected
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            text = f"MODEL_ZOOS_EXTENSIONS names {name!r}, which cannot be imported: {error}"
            warnings.warn(errors.ModelZoosWarning(text), stacklevel=2)


def main() -> None:
    """Run the command `model-zoos`."""
    from model_zoos import cli

    cli.main()


register(__version__)
_import_extensions()

if __name__ == "__main__":
    main()
