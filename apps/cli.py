"""`crl`: one program, nouns first; every room's commands are imported only when they are called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.cli.collector import collect_rarely
from finetune.cli.environment import refusal
from finetune.cli.streams import keep_streams, printed
from finetune.runs.interrupts import ended_as_by_ctrl_c

if TYPE_CHECKING:
    from agecls.audit.config import AuditConfig
    from apps.runtime.session import OnnxClassifier

USAGE = """usage: crl [-h] [--version] COMMAND ...

Tell visually similar classes apart: losses, fine-tuning, honest cross-validation, checked export, a demo.

commands:
  age verify       count what a data set holds: folds, groups, subjects, missing and unreadable images
  age table        write a published set of faces (UTKFace, AgeDB, FG-NET, ...) as one checked table
  age train        fine-tune one model and test it once on its test fold
  age cv           subject-exclusive cross-validation with scores, intervals and figures
  age tune         learning rates, weight decay and epochs, found without reading the test fold
  age evaluate     score trained models on any table of faces, sliced by group, gender and subject
  age calibrate    probabilities and sets of groups that keep their word, from images held out
  age audit        predicted ages at a legal age: error rates, what they can show, curves, fairness
  age compare      two results, paired on the same images
  age study        many losses, each with the same seeds, and what their paired differences say
  fine verify      count a fine-grained data set: classes, splits, unreadable and repeated images
  fine train       fine-tune one backbone with one head, test it once, and write its report
  fine tune        learning rates, weight decay and epochs, found without reading the test part
  fine evaluate    score a run again: other test crops, other weights, other data
  fine calibrate   probabilities and sets of classes that keep their word, from images held out
  fine compare     two results, or two lists of seeds, paired on the same images
  fine study       many losses, each with the same seeds, and what their paired differences say
  fine cost        what every head costs: weights, multiply-adds, images per second, memory
  general verify   count a general data set: digits, MNIST, CIFAR, SVHN, ImageNet, class folders
  general train    train one network with one loss and test it once
  general study    which loss should I use? many losses, paired seeds, the missing controls, one report
  export           a finished run as self-describing ONNX files, checked against the trained model
  predict          run exported models on images, folders or videos (no torch needed)
  explain          where a trained or exported model found its evidence, drawn over each crop
  evaluate-onnx    score exported models: the trained model's predictions again, or on other data
  demo             a local web page: upload images, compare models, see softmax heat maps
  curves           draw the losses of the true class's posterior alone, with gradients (PNG and CSV)
  cache            the decoded images kept between runs: list them, or remove those that no run holds
  doctor           check the installation, or with --gpu the GPU; says how to fix what is wrong
  quickstart       three losses cross-validated on drawn faces, exported, shown in the demo: a first result

Every command takes --help, --json (one JSON object on standard output) and --debug (tracebacks).
Exit codes: 0 fine, 2 usage, 3 data, 4 model file, 5 resources or no place to write, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    keep_streams()
    if argv is None and words[:1] != ["demo"]:
        collect_rarely()
    try:
        with ended_as_by_ctrl_c(for_good=argv is None):
            return _run(words)
    except KeyboardInterrupt:  # while the command was imported, or a second one while it stopped
        print("crl: interrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError, MemoryError) as error:  # a library that this machine cannot load
        known = refusal(error)
        if known is None or "--debug" in words:
            raise
        print(f"crl: {known}", file=sys.stderr)
        return known.exit_code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return printed("crl")
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"crl-toolkit {version('crl-toolkit')}")
        return printed("crl")
    if words[0] == "age":
        from agecls.commands import main as age_main

        return age_main(words[1:], prog="crl age", open_model=_open_model)
    if words[0] == "fine":
        from finegrained.commands import main as fine_main

        return fine_main(words[1:], prog="crl fine")
    if words[0] == "general":
        from generalcls.commands import main as general_main

        return general_main(words[1:], prog="crl general")
    from apps.commands import COMMANDS
    from finetune.cli.command import choose_command

    return choose_command(COMMANDS, words, prog="crl", others=["age", "fine", "general"])


def _open_model(path: Path, config: AuditConfig) -> OnnxClassifier:
    """Return an exported model for the age audit, whose room imports no program."""
    from apps.runtime.session import OnnxClassifier

    return OnnxClassifier(path, device=config.device, threads=config.threads)


if __name__ == "__main__":
    raise SystemExit(main())
