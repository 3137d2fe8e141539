"""Merge our card into the README that a repository has already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from ...errors import InvalidArgument

_END = "<!-- end of the card made by model_zoos -->"
"""Ends our text in a README; what follows is somebody else's, and stays."""


def merge_cards(ours: str, theirs: str) -> tuple[str, tuple[str, ...]]:
    """Merge two READMEs into one.

    Our configs and dataset_info replace those of the same name; all their others stay as they are,
    also as the default. Tags, task categories and languages are united. Of all other keys our value
    counts, and a key that only theirs has stays. The text is ours; what theirs says and we did not
    write follows it.

    Args:
        ours, theirs: whole files; an empty text stands for no file.

    Returns:
        The README, in which a line marks where our text ends, and the names of the configs kept.

    Raises:
        InvalidArgument: a header that is not the metadata of a card, or a config that is kept and
            reads other files than Parquet.
    """
    our, our_text = _parsed(ours)
    their, their_text = _parsed(theirs)
    configs, their_configs = _by_name(our.get("configs")), _by_name(their.get("configs"))
    kept = {name: config for name, config in their_configs.items() if name not in configs}
    for name, config in kept.items():
        if formats := {Path(path).suffix for path in _patterns(config)} - {".parquet", ""}:
            raise InvalidArgument(
                f"the repository's config {name!r} reads {', '.join(sorted(formats))} files: "
                "datasets loads all configs of a repository in one format, so that either it or "
                "ours could not be loaded: publish to another repository"
            )
    before, end, after = their_text.partition(_END)
    below = (after if end else before).strip()
    below = f"\n\n{_END}\n" + (f"\n{below}\n" if below else "")
    if not kept:
        return ours.rstrip() + below, ()
    if any(config.get("default") or name == "default" for name, config in kept.items()):
        for config in configs.values():
            config.pop("default", None)
    infos, their_infos = _by_name(our.get("dataset_info")), _by_name(their.get("dataset_info"))
    kept_infos = [info for name, info in their_infos.items() if name not in configs]
    merged = {**our, **{key: value for key, value in their.items() if key not in our}}
    merged["configs"] = [*configs.values(), *kept.values()]
    for key in ("tags", "task_categories", "language"):
        if values := [*_listed(our.get(key)), *_listed(their.get(key))]:
            merged[key] = list(dict.fromkeys(values))
    if infos or kept_infos:
        merged["dataset_info"] = [*infos.values(), *kept_infos]
    header = DatasetCardData(**merged).to_yaml(original_order=list(merged))
    return f"---\n{header}\n---\n{our_text.rstrip()}{below}", tuple(kept)


def _parsed(text: str) -> tuple[dict[str, Any], str]:
    """Return the metadata in the header of a README, and the text below it."""
    # Without a header, DatasetCard logs a warning.
    text = text if text.lstrip().startswith("---") else f"---\n\n---\n{text}"
    try:
        card = DatasetCard(text)
    except ValueError as error:
        raise InvalidArgument(f"the header of a README.md cannot be used: {error}") from error
    return card.data.to_dict(), card.text  # type: ignore[no-untyped-call]


def _by_name(
    entries: list[dict[str, Any]] | dict[str, Any] | None,
) -> dict[str, dict[str, Any]]:
    """Return the entries of `configs` or `dataset_info`; a single one may have no name."""
    if isinstance(entries, dict):
        entries = [entries]
    return {entry.get("config_name", "default"): entry for entry in entries or ()}


def _patterns(config: dict[str, Any]) -> list[str]:
    """Return the file patterns of a config, in any of the forms that data_files may have."""
    entries = _listed(config.get("data_files"))
    paths = [entry.get("path") if isinstance(entry, dict) else entry for entry in entries]
    return [str(pattern) for path in paths for pattern in _listed(path)]


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
