"""Which cells of a study are trained and when; finished ones never again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from finetune.console import say
from finetune.errors import DataError, UsageError, listing
from finetune.study.arms import Arm
from finetune.study.cells import Cell, CellPlan, cell_folder

Finished = Mapping[tuple[str, int], Cell]


def run_cells(
    arms: Sequence[Arm],
    seeds: Sequence[int],
    folder: Path,
    *,
    train: Callable[[Sequence[CellPlan]], None],
    read: Callable[[CellPlan], Cell | None],
) -> list[Cell]:
    """Have every cell of arms x seeds trained that is not finished, and return all that are then.

    There are two waves: the arms that stand alone, and then those whose learning rate is matched to another
    arm's. A matched cell's rate is multiplied by the gradient factor that its partner's finished cell of the
    same seed had over its whole training. Seeds come before arms, so that a study that is stopped has whole
    pairs.

    Args:
        arms: of different names; the partner of a matched arm is among them.
        seeds: different ones.
        folder: the study's.
        train: gets all unfinished plans of a wave at once, trains them, and leaves behind what `read` reads.
            It may leave some out, as when another process is at work on them.
        read: returns the finished cell of a plan, None where it is not finished.

    Returns:
        The finished cells in the order of the arms, then of the seeds. Where some are missing it is told.

    Raises:
        DataError: when a finished cell was trained at another rate than its partner now asks for, when a
            partner has no gradient factor, and when no cell was finished at all.
    """
    matched = [arm for arm in arms if arm.matches]
    _check(arms, seeds)
    done: dict[tuple[str, int], Cell] = {}
    say(f"{len(arms)} arms x {len(seeds)} seeds: {len(arms) * len(seeds)} cells in {folder}")
    for wave in ([arm for arm in arms if not arm.matches], matched):
        plans = list(_plans(wave, seeds, folder, done))
        found = _finished(plans, read)
        todo = [plan for plan in plans if (plan.arm.name, plan.seed) not in found]
        if plans:
            kind = "cells whose rate is matched to another's" if wave is matched else "cells"
            say(f"{kind}: {len(found)} of {len(plans)} finished already, {len(todo)} to train")
        if todo:
            train(todo)
            found |= _finished(todo, read)
        done |= found
    return _in_order(arms, seeds, done)


def _check(arms: Sequence[Arm], seeds: Sequence[int]) -> None:
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names) or len(set(seeds)) < len(seeds) or not names or not seeds:
        raise UsageError(
            f"a study needs different arms and different seeds, at least one of each; got the arms "
            f"{', '.join(names) or 'none'} and the seeds {', '.join(map(str, seeds)) or 'none'}"
        )
    alone = {arm.name for arm in arms if not arm.matches}
    for arm in arms:
        if arm.matches and arm.matches not in alone:
            raise UsageError(f"{arm.name} is matched to {arm.matches}, which is not in the study: add it")


def _plans(wave: Sequence[Arm], seeds: Sequence[int], folder: Path, done: Finished) -> Iterator[CellPlan]:
    """Yield the plans of a wave; a matched one whose partner is not finished has none."""
    for seed in seeds:
        for arm in wave:
            factor = 1.0
            if arm.matches:
                partner = done.get((arm.matches, seed))
                if partner is None:
                    continue
                factor = _factor(arm, partner)
            yield CellPlan(arm, seed, factor, cell_folder(folder, arm, seed))


def _factor(arm: Arm, partner: Cell) -> float:
    factor = partner.gradient_factor if arm.matches_by == "mean" else partner.gradient_ratio
    if factor is None or not math.isfinite(factor) or factor <= 0:
        raise DataError(
            f"{arm.name}: {partner.arm} with seed {partner.seed} has no gradient factor to match the "
            f"learning rate to (got {factor}; mixed pictures and margin heads have none): leave the "
            "rate-matched control out with --lr_match []"
        )
    return factor


def _finished(
    plans: Sequence[CellPlan], read: Callable[[CellPlan], Cell | None]
) -> dict[tuple[str, int], Cell]:
    found = {}
    for plan in plans:
        cell = read(plan)
        if cell is not None:
            _check_cell(plan, cell)
            found[plan.arm.name, plan.seed] = cell
    return found


def _check_cell(plan: CellPlan, cell: Cell) -> None:
    if (cell.arm, cell.seed) != (plan.arm.name, plan.seed):
        raise DataError(
            f"{plan.folder} holds the cell of {cell.arm} with seed {cell.seed}, not that of {plan.arm.name} "
            f"with seed {plan.seed}: remove it, and it is trained again"
        )
    if not math.isclose(cell.lr_factor, plan.lr_factor, rel_tol=1e-6):
        why = f", as {plan.arm.matches} with this seed now says" if plan.arm.matches else ""
        raise DataError(
            f"{plan.folder} was trained at {cell.lr_factor:g} times the learning rate, but it should be "
            f"{plan.lr_factor:g} times{why}: remove {plan.folder}, and it is trained again"
        )


def _in_order(arms: Sequence[Arm], seeds: Sequence[int], done: Finished) -> list[Cell]:
    wanted = [(arm.name, seed) for arm in arms for seed in seeds]
    missing = [f"{name}, seed {seed}" for name, seed in wanted if (name, seed) not in done]
    if len(missing) == len(wanted):
        raise DataError("no cell of the study is finished, so there is nothing to report")
    if missing:
        say(
            f"note: {len(missing)} of {len(wanted)} cells are not finished (another process may be at work "
            f"on them); the same command again trains or reads them:\n{listing(missing)}"
        )
    return [done[key] for key in wanted if key in done]
