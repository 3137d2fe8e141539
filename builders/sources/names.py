"""Names in a source: derive the id of a model from the folder of its trial.

Ray tune writes hyperparameters into the names of its folders; ray 1.8 writes the full keys:
`NN_tune_trainable_5f2aa_00000_0_model::dropout=0.5,model::init_type=uniform,..._2021-07-01_16-59-53`
"""

from __future__ import annotations

import hashlib
import re

from ..model_file import MODEL_ID

_LONGEST = 64
"""Length of an id that is made here, in characters."""

_LONGEST_PATH = 4096

_MARK = ",sha="
_MADE = re.compile(rf".*{_MARK}[0-9a-f]{{16}}")
_GROUP = re.compile(r"[A-Za-z]+::")
"""Group of a hyperparameter, as in `model::dropout`."""
_CHECKPOINT = re.compile(r"checkpoints|checkpoint_\d{1,8}")


def model_id_of(name: str) -> str:
    """Return the id of the model in a folder: the folder's name, if it is a valid id.

    Any other name is cut to its readable beginning, followed by a digest of the whole name:
    `NN_tune_trainable_5f2aa_00000_0_dropout=0.5,sha=0123456789abcdef`. Different names thus have
    different ids on every file system. Names of 65 to 200 characters that are valid ids stay
    unchanged, so that existing zoos with such names can be resumed. A name that has the form of an
    id made here is replaced too, since it could otherwise equal the id of another folder.

    Args:
        name: last part of the folder's path; bytes that are not UTF-8 are surrogates.
    """
    if MODEL_ID.fullmatch(name) and not _MADE.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    plain = re.sub(r"[^A-Za-z0-9_=,.-]", "_", _GROUP.sub("", name[:1000])).lstrip(".")
    return plain[: _LONGEST - len(_MARK) - len(digest)] + _MARK + digest


def last_folders(path: object) -> tuple[str, str]:
    """Return the last two parts of a path of any system; "" for a missing part.

    Two paths of the same trial, on different machines, agree in them.
    """
    if not isinstance(path, str) or len(path) > _LONGEST_PATH:
        return "", ""
    parts = [part for part in re.split(r"[/\\]+", path) if part]
    while parts and _CHECKPOINT.fullmatch(parts[-1]):
        parts.pop()
    return (["", "", *parts][-2], ["", *parts][-1])
