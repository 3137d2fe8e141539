"""Our card and the README that a repository has already become one."""

from __future__ import annotations

import pytest
import yaml

from model_zoos.builders.hub.merge import merge_cards


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
