"""Waves of cells: each trained once, matched ones after their partner, what is finished never again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from finetune.errors import DataError, InterruptedRunError, UsageError
from finetune.experiments.study.arms import build_arms
from finetune.experiments.study.cells import Cell, CellPlan, read_cell, write_cell
from finetune.experiments.study.schedule import run_cells, unlisted_words
from tests.finetune.experiments.study.made_up import cell_of

ARMS = build_arms(["crl"], lr_match=("mean", "ratio"))
MATCHED = ["cel-lr-mean-crl", "cel-lr-ratio-crl"]


@dataclass
class Engine:
    """Trains by writing a cell; `skips` are the arms it leaves out."""

    skips: Sequence[str] = ()
    factor: float | None = 1.5
    asked: list[list[tuple[str, int, float]]] = field(default_factory=list)

    def train(self, plans: Sequence[CellPlan]) -> None:
        self.asked.append([(plan.arm.name, plan.seed, plan.lr_factor) for plan in plans])
        for plan in plans:
            if plan.arm.name not in self.skips:
                factor = None if self.factor is None else self.factor + plan.seed / 10
                cell = cell_of(
                    plan.arm.name, plan.seed, 80.0, lr_factor=plan.lr_factor, gradient_factor=factor
                )
                loss = {"name": plan.arm.loss.name, **plan.arm.loss.options}
                write_cell(replace(cell, facts={**cell.facts, "loss": loss}), plan.folder)

    def run(self, folder: Path, seeds: Sequence[int] = (0, 1), arms=ARMS) -> list[Cell]:
        return run_cells(arms, seeds, folder, train=self.train, read=lambda plan: read_cell(plan.folder))


def test_two_waves_and_the_rates_of_the_second_come_from_the_first(tmp_path: Path):
    engine = Engine()
    cells = engine.run(tmp_path)
    first, second = engine.asked
    assert [each[:2] for each in first[:4]] == [(arm.name, 0) for arm in ARMS if not arm.matches]
    assert {factor for _, _, factor in first} == {1.0}
    assert second == [
        *[(MATCHED[0], 0, 1.5), (MATCHED[1], 0, 1.2)],
        *[(MATCHED[0], 1, 1.6), (MATCHED[1], 1, 1.2)],
    ]
    assert [(cell.arm, cell.seed) for cell in cells] == [(arm.name, seed) for arm in ARMS for seed in (0, 1)]


def test_finished_cells_are_not_trained_again_and_seeds_may_be_added(tmp_path: Path, capsys):
    Engine().run(tmp_path)
    again = Engine()
    assert len(again.run(tmp_path)) == 12
    assert again.asked == []
    more = Engine()
    assert len(more.run(tmp_path, seeds=(0, 1, 2))) == 18
    assert {seed for wave in more.asked for _, seed, _ in wave} == {2}
    assert "8 of 12 finished already, 4 to train" in capsys.readouterr().out


def test_a_matched_cell_of_another_rate_is_refused(tmp_path: Path):
    Engine().run(tmp_path, seeds=(0,))
    changed = cell_of("crl", 0, 80.0, gradient_factor=1.4)
    write_cell(changed, tmp_path / "cells" / "crl" / "seed-0")
    with pytest.raises(DataError, match=r"1\.5 times.*1\.4 times, as crl.*remove .*cel-lr-mean-crl"):
        Engine().run(tmp_path, seeds=(0,))


def test_a_partner_that_was_trained_again_may_differ_in_rounding(tmp_path: Path):
    Engine().run(tmp_path, seeds=(0,))
    write_cell(cell_of("crl", 0, 80.0, gradient_factor=1.5 * (1 + 2e-4)), tmp_path / "cells/crl/seed-0")
    assert len(Engine().run(tmp_path, seeds=(0,))) == len(ARMS)
    write_cell(cell_of("crl", 0, 80.0, gradient_factor=1.5 * (1 + 2e-3)), tmp_path / "cells/crl/seed-0")
    with pytest.raises(DataError, match=r"1\.503 times.*trained again.*--run\.resume auto"):
        Engine().run(tmp_path, seeds=(0,))


def test_a_partner_that_diverged_leaves_its_controls_out_of_that_seed(tmp_path: Path, capsys):
    lost = cell_of("crl", 1, 10.0, gradient_factor=None, gradient_ratio=None, facts={"diverged": True})
    write_cell(lost, tmp_path / "cells/crl/seed-1")
    cells = Engine().run(tmp_path)
    assert [cell.seed for cell in cells if cell.arm in MATCHED] == [0, 0]
    said = capsys.readouterr().out
    assert "2 cells are not trained" in said
    assert "not finished" not in said


def test_another_arms_cell_is_refused(tmp_path: Path):
    Engine().run(tmp_path, seeds=(0,))
    write_cell(cell_of("focal", 0, 80.0), tmp_path / "cells" / "crl" / "seed-0")
    with pytest.raises(DataError, match="holds the cell of focal"):
        Engine().run(tmp_path, seeds=(0,))


def test_an_interrupt_between_cells_says_how_to_go_on(tmp_path: Path):
    def stopped(plans: Sequence[CellPlan]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match=r"are kept.*--run\.resume auto"):
        run_cells(ARMS, [0], tmp_path, train=stopped, read=lambda plan: None)


def test_cells_of_another_process_are_told_as_missing(tmp_path: Path, capsys):
    cells = Engine(skips=["crl"]).run(tmp_path)
    assert {cell.arm for cell in cells} == {"cel", "focal", "cel-smoothing0.1"}
    said = capsys.readouterr().out
    assert "6 of 12 cells are not finished" in said
    assert "crl, seed 0" in said
    with pytest.raises(UsageError, match=r"another process is at work on them.*Wait.*--run\.resume auto"):
        Engine(skips=[arm.name for arm in ARMS]).run(tmp_path / "other")


@pytest.mark.parametrize("factor", [None, float("nan"), 0.0])
def test_a_partner_without_a_factor_says_how_to_go_on(tmp_path: Path, factor):
    with pytest.raises(DataError, match=r"no gradient factor.*--lr_match \[\]"):
        Engine(factor=factor).run(tmp_path, seeds=(0,))


def test_a_study_that_cannot_be_is_refused(tmp_path: Path):
    for arms, seeds in ((ARMS, []), ([], [0]), (ARMS, [0, 0]), ([*ARMS, ARMS[1]], [0])):
        with pytest.raises(UsageError, match="different arms and different seeds"):
            Engine().run(tmp_path, seeds, arms)
    with pytest.raises(UsageError, match="matched to crl, which is not in the study"):
        Engine().run(tmp_path, arms=[arm for arm in ARMS if arm.name != "crl"])


def test_the_cells_that_follow_are_announced_and_former_arms_are_not_forgotten(tmp_path: Path, capsys):
    Engine().run(tmp_path, arms=build_arms(["crl", "crl:alpha=1:beta=0.5", "cel:label_smoothing=0.2"]))
    capsys.readouterr()
    Engine().run(tmp_path, arms=build_arms(["nllr"], controls=False))
    said = capsys.readouterr().out
    words = "cel:label_smoothing=0.2, crl, crl:alpha=1:beta=0.5, focal"
    assert f"also holds finished cells of {words}: list them in --losses to see them" in said
    assert "lr-matched controls come with their CRL (--lr_match)" in said
    assert "more follow" not in said
    Engine().run(tmp_path / "other")
    said = capsys.readouterr().out
    assert (
        "0 of 8 finished already, 8 to train (4 more follow, at a learning rate that is matched to theirs)"
        in said
    )
    assert "also holds" not in said


def test_finished_runs_of_other_arms_are_seen_too_and_unfinished_ones_are_not(tmp_path: Path):
    for arm, file in (
        ("cosface-margin0.2", "report.md"),
        ("tce", "config.yaml"),
        ("cel-lr-mean-crl", "cell.json"),
    ):
        place = tmp_path / "cells" / arm / "seed-3"
        place.mkdir(parents=True)
        (place / file).touch()
    told = unlisted_words(tmp_path, build_arms(["nllr"], controls=False))
    assert "cells of cosface:margin=0.2: list" in told
    assert "tce" not in told
    assert "cel-lr-mean-crl: --lr_match brings" in unlisted_words(
        tmp_path, build_arms(["cosface:margin=0.2"])
    )
    assert unlisted_words(tmp_path, build_arms(["crl", "cosface:margin=0.2"])) == ""
