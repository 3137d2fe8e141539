"""The licence of a repository: its id on the Hub in the YAML of the card, and its text."""

from __future__ import annotations

import re

from ...errors import InvalidArgument
from .merge import parse_card

LICENCE = "cc-by-4.0"
"""The licence of the paper's zoos, and the default for a repository."""

LICENCE_URL = "https://creativecommons.org/licenses/by/4.0/"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")


def check_licence(licence: object, where: str = "") -> str:
    """Return the id of a licence in lower case, as the Hub writes it.

    Args:
        licence: the id.
        where: where it was found, ending with a colon, for the message.

    Raises:
        InvalidArgument: it is not such an id.
    """
    if not isinstance(licence, str) or not _ID.fullmatch(licence):
        raise InvalidArgument(
            f"{where}a licence is given by its id on the Hub, such as mit or cc-by-4.0, which has "
            f"letters, digits and the signs . + - _; found {licence!r:.80}",
            hint="`other` stands for one without an id; `model-zoos build` takes --licence ID",
        )
    return licence.lower()


def card_licence(card: str) -> str:
    """Return the licence that the YAML of a card names, or the default.

    Args:
        card: a whole README; an empty text stands for no file.

    Raises:
        InvalidArgument: its header is not valid card metadata, or the licence is not an id.
    """
    licence = parse_card(card)[0].get("license")
    return LICENCE if licence is None else check_licence(licence, "license in README.md: ")


def licence_text(licence: str) -> str:
    """Return a licence as Markdown."""
    return f"[CC BY 4.0]({LICENCE_URL})" if licence == LICENCE else licence
