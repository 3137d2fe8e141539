"""Our card and the README that a repository has already become one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from model_zoos.builders.hub.merge import merge_cards
from model_zoos.errors import InvalidArgument


def test_cards_that_add_nothing_leave_ours_to_the_byte() -> None:
    ours = "---\nlicense:   mit # as we wrote it\nconfigs:\n- config_name: z\n---\nText\n"
    theirs = "---\nconfigs:\n- config_name: z\n  data_files: old\n---\nOld text\n"
    end = "\n<!-- end of the card made by model_zoos -->\n"
    assert merge_cards(ours, "") == (ours + end, ())
    assert merge_cards(ours, theirs + end) == (ours + end, ())
    with pytest.raises(ValueError, match="should be a dict"):
        merge_cards(ours, "---\n- a list\n---\n")
    for files in ("a.csv", ["a.parquet", "b.csv"], [{"split": "test", "path": ["c/*.csv"]}]):
        theirs = {"configs": [{"config_name": "fish", "data_files": files}]}
        with pytest.raises(ValueError, match=r"config 'fish' reads \.csv files"):
            merge_cards(ours, f"---\n{yaml.safe_dump(theirs)}---\n")


@pytest.mark.parametrize(
    "header",
    [
        "configs: abc",
        "configs: [{config_name: [1]}]",
        "dataset_info: [[1]]",
        "tags: [{a: 1}]",
        "language: {a: 1}",
        "a: !!python/object/apply:os.mkdir [model_zoos_was_executed]",
        "[" * 100_000,
        "a: [" * 40 + "]" * 40,
        "a: &a [*a]",
        "a: &a {x: 1}\nb: {<<: *a}",
        "\n".join(
            ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
        ),
        "? [a]\n: 1",
        "1: 2",
        "self: 1",
        "a: 2026-99-99",
        "a: " + "9" * 9000,
        "a: " + "x" * 1_000_000,
        "\n" * 1_000_000,
        "\t",
    ],
)
def test_odd_metadata_is_one_error(
    header: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match="the repository's card has no usable meta") as found:
        merge_cards("---\nlicense: mit\n---\nText\n", f"---\n{header}\n---\nTheirs\n")
    assert "README.md" in str(found.value.hint)
    assert len(str(found.value)) < 500
    assert list(tmp_path.iterdir()) == []


def test_texts_without_metadata_are_kept() -> None:
    ours = "---\nlicense: mit\n---\nText\n"
    end = "\n<!-- end of the card made by model_zoos -->\n\n"
    for theirs in ("# Fish", "---", "--- \n# Fish", "---\nno end", "\n" * 100_000 + "x"):
        assert merge_cards(ours, theirs) == (ours + end + theirs.strip() + "\n", ())
