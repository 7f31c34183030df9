"""How every command runs: options in, one result out, expected failures as sentences with an exit code."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.cli.console import print_json, printable, use_json
from finetune.cli.environment import refusal
from finetune.cli.option_words import suggestion
from finetune.cli.options import Flags, parse_options
from finetune.cli.streams import keep_streams, lost_output, printed
from finetune.errors import CrlError, UsageError
from finetune.runs.interrupts import ended_as_by_ctrl_c

_called: ContextVar[str] = ContextVar("called", default="")  # the command that a call from Python stands for
_repeated: ContextVar[bool] = ContextVar("repeated", default=False)  # the same command again goes on


@dataclass(frozen=True)
class Command:
    """One command: its configuration's type, its words, and the function that does it.

    `run(config, words)` returns the JSON object of `--json`; what it prints for the user it prints itself.
    `recipes` is a folder of YAML files that `--config` also finds by name; `aside` are keys in files of
    `--config` that belong to another command and are left aside. `faults` is what `parse_options` asks.
    """

    config_type: type[Any]
    about: str
    run: Callable[[Any, Mapping[str, str]], dict[str, Any]]
    positionals: Mapping[str, str] | None = None
    recipes: Path | None = None
    aside: Sequence[str] = ()
    faults: Callable[[Mapping[str, Any]], list[CrlError]] | None = None


def run_command(command: Command, argv: Sequence[str], *, prog: str) -> int:
    """Parse `argv`, run the command, print what it returns under `--json`, and return the exit code."""
    if "--json" in argv:
        use_json()
    keep_streams()
    with ended_as_by_ctrl_c():
        return _run_whole(command, argv, prog)


def _run_whole(command: Command, argv: Sequence[str], prog: str) -> int:
    try:
        config, flags, words = parse_options(
            command.config_type,
            argv,
            prog=prog,
            about=command.about,
            positionals=command.positionals,
            recipes=command.recipes,
            aside=command.aside,
            faults=command.faults,
        )
        _finish(command.run(config, words), flags)
        if lost := lost_output():
            raise lost
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except SystemExit as leaving:  # after --help
        return int(leaving.code or 0) or printed(prog)
    except Exception as error:
        known = error if isinstance(error, CrlError) else refusal(error)
        if "--debug" in argv or known is None:
            raise
        print(printable(f"{prog}: {known}"), file=sys.stderr)
        if "--json" in argv and known.result is not None:
            print_json(known.result)
        return known.exit_code
    return 0


@contextmanager
def resumed_by_repeating() -> Iterator[None]:
    """Inside, the running command goes on when it is given again as it is."""
    before = _repeated.set(True)
    try:
        yield
    finally:
        _repeated.reset(before)


def goes_on_when_repeated() -> bool:
    """Return whether the running command needs no option to go on."""
    return _repeated.get()


@contextmanager
def called_as(line: str) -> Iterator[None]:
    """Inside, a call from Python stands for this command line, and `command_line` returns it."""
    before = _called.set(line)
    try:
        yield
    finally:
        _called.reset(before)


def command_line() -> str:
    """Return the running command as it was typed, and torchrun before it (as for one machine).

    Of a call from Python it is the command that does the same.
    """
    if called := _called.get():
        return called
    program = Path(sys.argv[0])
    as_module = program.name == "__main__.py"
    found = shutil.which(program.name)
    on_path = found is not None and program.exists() and program.samefile(found)
    name = program.name if on_path else sys.argv[0]
    if os.environ.get("WORLD_SIZE", "1") != "1":
        start = ["torchrun", "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", "1")]
        start += ["-m", program.parent.name] if as_module else ["--no-python", name]
    else:
        safe = ["-P"] if sys.flags.safe_path else []  # a working directory that may not be imported from
        start = [sys.orig_argv[0], *safe, "-m", program.parent.name] if as_module else [name]
    return shlex.join([*start, *sys.argv[1:]])


def _finish(result: dict[str, Any], flags: Flags) -> None:
    if flags.json:
        print_json(result)


def choose_command(
    commands: Mapping[str, Command], argv: Sequence[str], *, prog: str, others: Sequence[str] = ()
) -> int:
    """Run the command that the first word names; without one, list them.

    `others` are words that the caller handles itself, known here for the suggestion alone.
    """
    keep_streams()
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, commands))
        lines = [f"  {name:<{width}}  {command.about}" for name, command in commands.items()]
        print(f"usage: {prog} COMMAND ...\n\ncommands:\n" + "\n".join(lines))
        return printed(prog)
    if argv[0] not in commands:
        error = UsageError(f"{prog}: no command {argv[0]!r}{suggestion(argv[0], [*commands, *others])}")
        print(printable(str(error)), file=sys.stderr)
        return error.exit_code
    return run_command(commands[argv[0]], argv[1:], prog=f"{prog} {argv[0]}")
