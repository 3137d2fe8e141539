"""The errors and warnings of model_zoos.

Each class also derives from the built-in exception that describes it best, so that
`except ValueError` or `except OSError` catches it too.
"""

from __future__ import annotations


class UnknownZoo(ValueError):
    """No zoo has this name; the message lists the close ones."""


class ZooNotFound(FileNotFoundError):
    """There is no zoo directory of this name."""


class FaultyZoo(ValueError):
    """zoo.json or splits.json cannot be used; the message names the file and what is wrong."""


class FaultyFile(ValueError):
    """A model's file cannot be used; the message names the file and what is wrong."""


class FaultyFilesWarning(UserWarning):
    """Some model files of a zoo could not be read and were left out; the message counts them."""


class HubFailed(OSError):
    """The Hub could not be reached or refused; the message says in one line what to do."""


class DownloadFailed(OSError):
    """A file could not be fetched; what came stays for the next run to go on."""


class Cancelled(Exception):
    """A file is not finished, since another failed or the user pressed Ctrl-C."""


class NotEnoughSpace(RuntimeError):
    """The missing models do not fit on the disk; the message says how much is needed."""


class LanesUnavailable(RuntimeError):
    """The kernel cannot be built or run here; the message is one line that says why."""


class TooFewModels(ValueError):
    """A split is missing or holds too little for a score."""


class Leakage(ValueError):
    """States of one model, or twins of one parent, lie in two splits."""


class BoostingUnavailable(RuntimeError):
    """LightGBM is not installed."""


class CheckpointWarning(UserWarning):
    """A checkpoint cannot be used, or not to the bit; the message says what is done about it."""


class TrainingFailed(RuntimeError):
    """A worker stopped; the models that were finished before are on disk."""


class SlowEngineWarning(UserWarning):
    """The fastest engine cannot run here; the message says why, and which one is used."""


class PublishingWarning(UserWarning):
    """Finished models could not be published now, or wait for it to make room on the disk."""


class ImageFilesError(OSError):
    """The files of an image data set cannot be used; the message is one line for the user."""


class MissingImagesError(ImageFilesError, FileNotFoundError):
    """The files are not in the images folder, or could not be fetched."""


class UnverifiedImagesError(ImageFilesError):
    """The files are readable, but not the published ones (MD5 sums or number of images)."""


class UnreadableImagesError(ImageFilesError):
    """A file is cut or damaged."""
