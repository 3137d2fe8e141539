"""The ledger: which models of a zoo are on the Hub, and which were freed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Models of a zoo that were published one by one: what published.json says.

    Attributes:
        repo_id: where: `ORG/NAME` on the Hub.
        models: model id -> "here": published, and its files are here too; "freed": published, and
            no longer (or never) here; "damaged": here, but could not be read to be published.
        stopped: why nothing more is published until the zoo is started again; None if it is.
    """

    repo_id: str
    models: Mapping[str, str]
    stopped: str | None = None

    @property
    def freed(self) -> frozenset[str]:
        """Ids of the models that are only there."""
        return frozenset(model for model, where in self.models.items() if where == "freed")
