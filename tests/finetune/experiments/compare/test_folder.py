"""Where comparisons go, and that none takes the place of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import UsageError
from finetune.experiments.compare.folder import RECORD, claim_comparison, comparison_folder, write_record


@pytest.mark.parametrize(
    ("first", "second", "place"),
    [
        (["cel"], ["crl"], "crl-against-cel"),
        (["one/result"], ["two/result"], "two/two-result-against-one-result"),
        (["cel"], ["cells/crl/seed-3"], "cells/crl/crl-seed-3-against-cel"),
        (["a0", "a1"], ["b0", "b1"], "b0-against-a0-2-seeds"),
    ],
)
def test_the_place_tells_the_two_apart(tmp_path: Path, first: list[str], second: list[str], place: str):
    sides = [[tmp_path / name for name in side] for side in (first, second)]
    assert comparison_folder(*sides) == tmp_path.resolve() / place


def test_the_same_results_may_be_compared_again_others_not(tmp_path: Path):
    out, a, b, c = (tmp_path / "runs" / name for name in ("out", "a", "b", "c"))
    out.mkdir(parents=True)
    sides = claim_comparison(out, [a], [b])
    record = write_record(out, {"n": 3}, out / "compare.md", sides)
    assert record == {"n": 3, "folders": {"a": ["../a"], "b": ["../b"]}, "page": str(out / "compare.md")}
    assert claim_comparison(out, [a], [b]) == sides
    for first, second in ((a, c), (b, a)):
        with pytest.raises(UsageError, match=r"other results \(\.\./b against \.\./a(.|\n)*give --out"):
            claim_comparison(out, [first], [second])
    (tmp_path / "runs").rename(tmp_path / "moved")
    out, a, b = (tmp_path / "moved" / name for name in ("out", "a", "b"))
    assert claim_comparison(out, [a], [b]) == sides


def test_a_comparison_that_does_not_tell_its_folders_is_not_replaced_in_silence(tmp_path: Path, capsys):
    (tmp_path / RECORD).write_text("{}")
    claim_comparison(tmp_path, [tmp_path / "a"], [tmp_path / "b"])
    assert "does not record its folders" in capsys.readouterr().out
