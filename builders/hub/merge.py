"""Merge our card into the README that a repository has already."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCardData

from ...errors import InvalidArgument

END = "<!-- end of the card made by model_zoos -->"
"""Ends our text in a README; what follows is somebody else's, and stays."""

_LISTS = ("tags", "task_categories", "language")
"""Keys whose values are united."""

_MAX_HEADER, _MAX_VALUES, _MAX_DEPTH = 1 << 18, 50_000, 30
"""Limits of the header of a README: characters, values, and levels."""

_MAX_BRACKETS = 200


def merge_cards(ours: str, theirs: str) -> tuple[str, tuple[str, ...]]:
    """Merge two READMEs into one.

    If theirs has no config that ours lacks, the header is ours alone. Otherwise our configs and
    dataset_info replace theirs of the same name, and their others stay unchanged, a default
    included; tags, task categories and languages are united; for every other key our value takes
    precedence, and a key that only theirs has stays. The text is ours, followed by the parts of
    both that we did not write: those below the line that ends our text.

    Args:
        ours, theirs: whole files; an empty text stands for no file.

    Returns:
        The README, in which a line marks where our text ends, and the names of the configs kept.

    Raises:
        InvalidArgument: a header that is not the metadata of a card, see `unusable_card`, or a
            config that is kept and reads other files than Parquet.
    """
    ours, own = _cut(ours)
    our, our_text = parse_card(ours)
    their, their_text = parse_card(theirs)
    configs, their_configs = _by_name(our.get("configs")), _by_name(their.get("configs"))
    kept = {name: config for name, config in their_configs.items() if name not in configs}
    for name, config in kept.items():
        if formats := {Path(path).suffix for path in patterns_of(config)} - {".parquet", ""}:
            raise InvalidArgument(
                f"the repository's config {name!r} reads {', '.join(sorted(formats))} files: "
                "datasets loads all configs of a repository in one format, so that either it or "
                "ours could not be loaded: publish to another repository"
            )
    before, end, after = their_text.partition(END)
    below = _below((after if end else before).strip(), own)
    if not kept:
        return ours + below, ()
    if any(config.get("default") or name == "default" for name, config in kept.items()):
        for config in configs.values():
            config.pop("default", None)
    infos, their_infos = _by_name(our.get("dataset_info")), _by_name(their.get("dataset_info"))
    kept_infos = [info for name, info in their_infos.items() if name not in configs]
    merged = {**our, **{key: value for key, value in their.items() if key not in our}}
    merged["configs"] = [*configs.values(), *kept.values()]
    for key in _LISTS:
        if values := [*_listed(our.get(key)), *_listed(their.get(key))]:
            merged[key] = list(dict.fromkeys(values))
    if infos or kept_infos:
        merged["dataset_info"] = [*infos.values(), *kept_infos]
    header = DatasetCardData(**merged).to_yaml(original_order=list(merged))
    try:
        header.encode()
    except UnicodeEncodeError:
        raise unusable_card("it has a text that is not valid Unicode") from None
    return f"---\n{header}\n---\n{our_text}{below}", tuple(kept)


def with_text_of(card: str, earlier: str) -> str:
    """Return a card of ours, ended by the line that says so and what an earlier one has below it.

    Args:
        card: a whole README that we made.
        earlier: the README in its place; an empty text stands for no file.
    """
    return _cut(card)[0] + _below("", _cut(earlier)[1])


def _cut(ours: str) -> tuple[str, str]:
    """Return a README that we made, and what somebody has written below the end of our text."""
    before, _, below = ours.partition(END)
    return before.rstrip(), below.strip()


def _below(theirs: str, ours: str) -> str:
    """Return the end of a card: texts of somebody else, the same one once."""
    texts = [theirs] if ours in theirs else [ours] if theirs in ours else [theirs, ours]
    return "".join([f"\n\n{END}\n", *(f"\n{text}\n" for text in texts if text)])


def patterns_of(config: dict[str, Any]) -> list[str]:
    """Return the file patterns of a config, in any of the forms that data_files may have."""
    entries = _listed(config.get("data_files"))
    paths = [entry.get("path") if isinstance(entry, dict) else entry for entry in entries]
    return [str(pattern) for path in paths for pattern in _listed(path)]


def unusable_card(reason: str) -> InvalidArgument:
    """Return the error for a README that cannot be merged with ours."""
    return InvalidArgument(
        f"the repository's card has no usable metadata: {reason:.300}",
        hint="mend the YAML at the top of the repository's README.md, or delete that file there",
    )


def parse_card(text: str) -> tuple[dict[str, Any], str]:
    """Return the metadata in the header of a README, and the text below it.

    Raises:
        InvalidArgument: the header is not the metadata of a card.
    """
    lines = text.splitlines(keepends=True)
    start = next((n for n, line in enumerate(lines) if line.strip()), 0)
    if not lines or lines[start].strip() != "---":
        return {}, text
    end = next((n for n in range(start + 1, len(lines)) if lines[n].rstrip() == "---"), None)
    if end is None:
        return {}, text
    header = "".join(lines[start + 1 : end])
    if len(header) > _MAX_HEADER:
        raise unusable_card(f"it has {len(header):,} characters")
    steps = ((mark in "[{") - (mark in "]}") for mark in header)
    if max(accumulate(steps), default=0) > _MAX_BRACKETS:  # which take long to be parsed
        raise unusable_card("it is nested too deeply")
    try:
        found = yaml.load(header, _Loader)
    except RecursionError:
        raise unusable_card("it is nested too deeply") from None
    except Exception as error:  # besides YAMLError, those of numbers and dates
        raise unusable_card(" ".join(str(error).split())) from None
    data = {} if found is None else found
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise unusable_card("it should be a dict")
    if _count(data, 0) > _MAX_VALUES:
        raise unusable_card("it is nested too deeply, or repeats too much")
    for key in ("configs", "dataset_info"):
        entries = data.get(key)
        for entry in entries if isinstance(entries, list) else [{} if entries is None else entries]:
            if not isinstance(entry, dict) or not isinstance(entry.get("config_name", ""), str):
                raise unusable_card(f"{key} should be a list of dicts with names")
    for key in _LISTS:
        if not all(isinstance(value, str) for value in _listed(data.get(key))):
            raise unusable_card(f"{key} should be a list of texts")
    try:
        card = DatasetCardData(**data)
    except TypeError as error:
        raise unusable_card(str(error)) from None
    return card.to_dict(), "".join(lines[end + 1 :])  # type: ignore[no-untyped-call]


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """The loader that constructs no objects, without the merge keys that can grow exponentially."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("merge keys (<<) are not supported")


def _count(value: object, depth: int, known: int = 0) -> int:
    """Return how many values a value holds, repeated ones each time; stop at the limits."""
    known += 1
    if depth > _MAX_DEPTH or known > _MAX_VALUES:
        return _MAX_VALUES + 1
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        if (known := _count(part, depth + 1, known)) > _MAX_VALUES:
            break
    return known


def _by_name(
    entries: list[dict[str, Any]] | dict[str, Any] | None,
) -> dict[str, dict[str, Any]]:
    """Return the entries of `configs` or `dataset_info`; a single one may have no name."""
    if isinstance(entries, dict):
        entries = [entries]
    return {entry.get("config_name", "default"): entry for entry in entries or ()}


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
