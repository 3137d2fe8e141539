"""The errors and warnings of model_zoos.

Every error derives from `ModelZoosError` and from the built-in exception that describes it best, so
that `except ValueError` or `except OSError` catches it too. The message speaks of arguments and
files; `hint` says what to type in a shell. The command `model-zoos` prints both, and so does a
traceback in Python 3.11 and later.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """Return "did you mean a, b or c?" with similar names among `known`; "" if there are none.

    Args:
        name: the given name; only its first 80 characters are compared.
        known: the existing names.
        most: maximal number of names in the text.
    """
    close = difflib.get_close_matches(name[:80], list(dict.fromkeys(known)), n=most, cutoff=0.5)
    if not close:
        return ""
    *others, last = close
    return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


class _Hinted(Exception):
    """An exception with an optional hint, which pickling keeps.

    Args:
        args: arguments of the built-in exception, usually only the message.
        hint: what a user of the command line can type, None if there is nothing to add. It is not
            part of `str(error)`.
    """

    def __init__(self, *args: object, hint: str | None = None) -> None:
        super().__init__(*args)
        self.hint = hint
        if hint is not None:  # Python 3.11 prints notes below a traceback
            self.__notes__ = [f"in a shell: {hint}"]


class ModelZoosError(_Hinted):
    """Base class of all errors of model_zoos."""


class ModelZoosWarning(_Hinted, UserWarning):
    """Base class of all warnings of model_zoos."""


class InvalidArgument(ModelZoosError, ValueError):
    """An argument, or a combination of arguments, that cannot be used."""


class NoRowsLeft(InvalidArgument):
    """The filters of `load_dataset` leave no row in a split."""


class UnknownZoo(ModelZoosError, ValueError):
    """No zoo has this name. The message lists similar names."""


class ZooNotFound(ModelZoosError, FileNotFoundError):
    """There is no zoo directory of this name."""


class FaultyZoo(ModelZoosError, ValueError):
    """A zoo is incomplete, has a damaged file, or was not made in the requested way.

    The file is zoo.json, splits.json or published.json of a zoo directory, or a Parquet file of a
    repository or a built folder. The message names it and what is wrong with it.
    """


class FaultyFile(ModelZoosError, ValueError):
    """A model file cannot be used. The message names the file and what is wrong with it."""


class UnreadableFile(FaultyFile):
    """The system cannot read a file that is there: an error of its disk, network or permissions.

    Nothing is known of the file's content, so that it is not replaced.
    """


class FaultyFilesWarning(ModelZoosWarning):
    """Some model files of a zoo cannot be read and are left out. The message counts them."""


class HubFailed(ModelZoosError, OSError):
    """The Hub cannot be reached, or refused a request. The message says in one line what to do."""


class HubUnreachable(HubFailed):
    """The Hub cannot be reached or is out of order, or HF_HUB_OFFLINE forbids requests."""


class OfflineWarning(ModelZoosWarning):
    """The Hub cannot be reached, so rows from the cache of an earlier call are used."""


class SourceNotFound(ModelZoosError, FileNotFoundError):
    """There is no file or folder to import."""


class Unreadable(ModelZoosError, ValueError):
    """The source of an import, or a part of it, cannot be read.

    If the whole source is unreadable, the message names it. For a single state, trial or checkpoint
    it is only the reason, as in import_report.json.
    """


class DownloadFailed(ModelZoosError, OSError):
    """A file cannot be downloaded. Received bytes are kept, and the next call resumes there."""


class Cancelled(ModelZoosError):
    """The writing of a file was cancelled, since another one failed or the user interrupted."""


class AlreadyRunning(ModelZoosError, RuntimeError):
    """Another process builds in this folder, or publishes this zoo."""


class AlreadyRunningWarning(ModelZoosWarning):
    """Another process trains models of the same zoo directory."""


class PublishingWarning(ModelZoosWarning):
    """Finished models cannot be published now, or training waits until the disk has room."""


class NotEnoughSpace(ModelZoosError, RuntimeError):
    """The missing models do not fit on the disk. The message says how much room they need."""


class TrainingFailed(ModelZoosError, RuntimeError):
    """A worker process stopped. The models that were finished before are on disk."""


class LanesUnavailable(ModelZoosError, RuntimeError):
    """The kernel of the engine "lanes" cannot be built or run here. The message says why."""


class CudaUnavailable(ModelZoosError, RuntimeError):
    """The kernel of the engine "cuda" cannot be built or run here. The message says why."""


class SlowEngineWarning(ModelZoosWarning):
    """The fastest engine cannot run here. The message says why, and which one is used instead."""


class CheckpointWarning(ModelZoosWarning):
    """A checkpoint cannot be used, or training resumed from it differs in last bits."""


class ImageFilesError(ModelZoosError, OSError):
    """The files of an image data set cannot be used."""


class MissingImagesError(ImageFilesError, FileNotFoundError):
    """The files of an image data set are not in the images folder, or cannot be downloaded."""


class UnverifiedImagesError(ImageFilesError):
    """Image files are readable, but not the original ones: their MD5 sums or numbers differ."""


class UnreadableImagesError(ImageFilesError):
    """A file of an image data set is truncated or damaged."""


class TooFewModels(ModelZoosError, ValueError):
    """A split is missing, or has too few models for a score."""


class Leakage(ModelZoosError, ValueError):
    """States of one model, or twins of one parent, lie in two splits."""


class TorchvisionUnavailable(ModelZoosError, ImportError):
    """torchvision is not installed, or does not fit the installed torch."""


class BoostingUnavailable(ModelZoosError, RuntimeError):
    """LightGBM is not installed."""
