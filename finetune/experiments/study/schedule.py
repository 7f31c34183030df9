"""Which cells of a study are trained and when; finished ones never again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from finetune.cli.console import say
from finetune.errors import DataError, InterruptedRunError, UsageError, listing
from finetune.experiments.study.arm_names import word_of
from finetune.experiments.study.arms import BASELINE, Arm
from finetune.experiments.study.cells import CELL_FILE, SEED, Cell, CellPlan, cell_folder

LAST_FILES = (CELL_FILE, "report.md")  # what a finished cell has: of the general study, of a run
NAMED = 10  # arms that a sentence names
Finished = Mapping[tuple[str, int], Cell]
SAME_RATE = 1e-3  # a partner trained again in other batches of cells, or elsewhere, differs in rounding


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
    arm's. A matched cell's learning rate is multiplied by the gradient factor that its partner's finished
    cell of the same seed had over its whole training. Seeds come before arms, so that a study that is stopped
    has whole pairs.

    Args:
        arms: of different names; the partner of a matched arm is among them.
        seeds: different ones.
        folder: the study's.
        train: gets all unfinished plans of a wave at once, trains them, and leaves behind what `read` reads.
            It may leave some out, as when another process is at work on them.
        read: returns the finished cell of a plan, None where it is not finished.

    Returns:
        The finished cells in the order of the arms, then of the seeds. Where some are missing, that is
        reported. A matched arm has no cell for a seed whose partner diverged, and so has no factor.

    Raises:
        DataError: when a finished cell was trained at another learning rate (by more than a thousandth) than
            its partner now asks for, and when a partner that did not diverge has no gradient factor.
        UsageError: when no cell is finished, since another process is at work on them.
        InterruptedRunError: at Ctrl-C or SIGTERM, where the training has not reported it itself.
    """
    matched = [arm for arm in arms if arm.matches]
    _check(arms, seeds)
    done: dict[tuple[str, int], Cell] = {}
    say(f"{len(arms)} arms x {len(seeds)} seeds: {len(arms) * len(seeds)} cells in {folder}")
    if others := unlisted_words(folder, arms):
        say(f"note: {others}")
    for wave in ([arm for arm in arms if not arm.matches], matched):
        plans = list(_plans(wave, seeds, folder, done))
        found = _finished(plans, read)
        todo = [plan for plan in plans if (plan.arm.name, plan.seed) not in found]
        if plans:
            kind = "cells whose learning rate is matched to another's" if wave is matched else "cells"
            more = 0 if wave is matched else len(matched) * len(seeds)
            follow = f" ({more} more follow, at a learning rate that is matched to theirs)" if more else ""
            say(f"{kind}: {len(found)} of {len(plans)} finished already, {len(todo)} to train{follow}")
        if todo:
            try:
                train(todo)
            except KeyboardInterrupt:
                raise InterruptedRunError(
                    f"interrupted; the finished cells in {folder} are kept: the same command with "
                    "--run.resume auto goes on"
                ) from None
            found |= _finished(todo, read)
        done |= found
    return _in_order(arms, seeds, done)


def unlisted_words(folder: Path, arms: Sequence[Arm]) -> str:
    """Return a sentence on finished cells in a study's folder whose arms are not listed; "" without any.

    Args:
        folder: the study's.
        arms: those listed.
    """
    listed = {arm.name for arm in arms}
    names = sorted(
        place.name
        for place in folder.glob("cells/*")
        if place.name not in listed and any(any(place.glob(f"{SEED}*/{file}")) for file in LAST_FILES)
    )
    matched = [name for name in names if name.startswith(f"{BASELINE}-lr-")]
    words = [word_of(name) for name in names if name not in matched]
    if not words:
        told = ", ".join(matched)
        return f"the folder also holds finished cells of {told}: --lr_match brings them back" if told else ""
    shown = ", ".join(words[:NAMED]) + (f" and {len(words) - NAMED} more" if len(words) > NAMED else "")
    alone = "; lr-matched controls come with their CRL (--lr_match)" if matched else ""
    return f"the folder also holds finished cells of {shown}: list them in --losses to see them{alone}"


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
                if partner is None or _is_lost(arm, partner):
                    continue
                factor = _factor(arm, partner)
            yield CellPlan(arm, seed, factor, cell_folder(folder, arm, seed))


def _factor_of(arm: Arm, partner: Cell) -> float | None:
    """Return the partner's factor where it is one that a learning rate can be multiplied by."""
    factor = partner.gradient_factor if arm.matches_by == "mean" else partner.gradient_ratio
    return factor if factor is not None and math.isfinite(factor) and factor > 0 else None


def _is_lost(arm: Arm, partner: Cell) -> bool:
    """Return whether the partner diverged, so that there never is a learning rate to match."""
    return bool(partner.facts.get("diverged")) and _factor_of(arm, partner) is None


def _factor(arm: Arm, partner: Cell) -> float:
    factor = _factor_of(arm, partner)
    if factor is None:
        raise DataError(
            f"{arm.name}: {partner.arm} with seed {partner.seed} has no gradient factor to match the "
            f"learning rate to (mixed images and margin heads have none): leave the "
            "lr-matched control out with --lr_match []"
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
    if not math.isclose(cell.lr_factor, plan.lr_factor, rel_tol=SAME_RATE):
        why = ""
        if plan.arm.matches:
            why = f", as {plan.arm.matches} with this seed now says (it was trained again since then)"
        raise DataError(
            f"{plan.folder} was trained at {cell.lr_factor:.6g} times the learning rate, but it should be "
            f"{plan.lr_factor:.6g} times{why}: remove {plan.folder} and give the same command again with "
            "--run.resume auto; the cell is trained again at the new learning rate"
        )


def _in_order(arms: Sequence[Arm], seeds: Sequence[int], done: Finished) -> list[Cell]:
    wanted = [(arm.name, seed) for arm in arms for seed in seeds]
    if not done:
        raise UsageError(
            "no cell of the study is finished yet, so there is nothing to report: another process is at work "
            "on them, unless the lines above say that they failed. Wait until that process is done, then "
            "give the same command again with --run.resume auto: it trains what is left and writes the report"
        )
    lost = [
        (arm.name, seed)
        for arm in arms
        for seed in seeds
        if (partner := done.get((arm.matches, seed))) and _is_lost(arm, partner)
    ]
    if lost:
        told = [f"{name}, seed {seed}" for name, seed in lost]
        say(
            f"note: {len(lost)} cells are not trained: the one their learning rate is matched to diverged "
            f"and has no gradient factor:\n{listing(told)}"
        )
    gone = {*done, *lost}
    missing = [f"{name}, seed {seed}" for name, seed in wanted if (name, seed) not in gone]
    if missing:
        say(
            f"note: {len(missing)} of {len(wanted)} cells are not finished (another process is at work on "
            f"them, or they failed, as reported above); the same command again trains or reads them:\n"
            f"{listing(missing)}"
        )
    return [done[key] for key in wanted if key in done]


def time_text(seconds: float) -> str:
    """Return a length of time in words.

    >>> time_text(20), time_text(600), time_text(9000)
    ('20 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
