"""One call of `import_zoo`: its arguments, the outcome for its models, and the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import file_digest
from ..specification import Zoo
from ..zoo_directory import ZooDirectory, create_zoo, remove_if_empty
from .archive import printable
from .report import LeftOut, Report


@dataclass(frozen=True)
class ImportJob:
    """The checked arguments of `import_zoo` that all source formats share."""

    path: Path
    root: Path
    name: str | None
    max_weight: float | None
    workers: int | None
    on_progress: Callable[[str, int, int], None] | None
    splits: Path | None = None

    def create(self, zoo: Zoo, about: Mapping[str, object], **provenance: object) -> ZooDirectory:
        """Create the directory of a zoo, or open that of an interrupted import."""
        return create_zoo(
            self.root,
            zoo,
            engine="original",
            source=about,
            max_weight=self.max_weight,
            **provenance,
        )

    def report(
        self,
        directory: ZooDirectory,
        about: Mapping[str, object],
        outcomes: Iterable[Outcome],
        expected: int,
        found: int,
        left_out: Iterable[LeftOut],
        remarks: Iterable[str] = (),
    ) -> Report:
        """Consume the outcomes of all models, then write the report on them.

        Args:
            directory: the zoo.
            about: the report's facts on the source.
            outcomes: outcomes of all models.
            expected: number of models.
            found: number of states of the zoo in the source.
            left_out: states that belong to none of the models.
            remarks: remarks that concern none of the models.
        """
        name = directory.zoo.name
        kept: list[int] = []
        faults, notes, others = list(left_out), list(remarks), set[str]()
        for outcome in outcomes:
            kept += outcome.kept
            faults += outcome.left_out
            notes += outcome.remarks
            others |= outcome.others
            if self.on_progress is not None:
                self.on_progress(name, len(kept), expected)
        if others:
            names = ", ".join(map(printable, sorted(others)))
            notes.append(f"{len(others)} values in result.json that no row has: {names}")
        faults.sort()
        notes.sort()
        models = len(kept) - kept.count(0)
        report = Report(name, about, models, found, sum(kept), tuple(faults), tuple(notes))
        report.write(directory.path)
        if not models:
            remove_if_empty(directory)
        return report


@dataclass(frozen=True)
class Outcome:
    """The outcome for the states of one or several models.

    Attributes:
        kept: number of kept states of each model.
        left_out: the other states.
        remarks: remarks on the models.
        others: names of measured values that no row has a column for.
    """

    kept: list[int]
    left_out: list[LeftOut]
    remarks: list[str]
    others: frozenset[str] = frozenset()

    @classmethod
    def of_all(cls, outcomes: Sequence[Outcome]) -> Outcome:
        """Return several outcomes as one, which is faster to send between processes."""
        return cls(
            [kept for outcome in outcomes for kept in outcome.kept],
            [state for outcome in outcomes for state in outcome.left_out],
            [remark for outcome in outcomes for remark in outcome.remarks],
            frozenset().union(*(outcome.others for outcome in outcomes)),
        )


def file_facts(path: Path) -> dict[str, object]:
    """Return name, size and digest of a source that is a file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path, "sha256")}
