"""What runs before a commit and on the forge is what `make` runs; each rule has a twin that it catches."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)


def load(name: str) -> dict[Any, Any]:
    """Return a YAML file of the repository; the key `on` of a workflow is read as True."""
    found = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def hooks(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every hook of a pre-commit configuration."""
    return [hook for repo in config["repos"] for hook in repo["hooks"]]


def fetched(config: Mapping[str, Any]) -> list[str]:
    """Return the hooks that pre-commit would download, or install an environment for."""
    remote = [repo["repo"] for repo in config["repos"] if repo["repo"] != "local"]
    return remote + [hook["id"] for hook in hooks(config) if hook["language"] != "system"]


def commands(workflow: Mapping[Any, Any]) -> list[str]:
    """Return what the steps of a workflow run."""
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def strangers(run: list[str], makefile: str) -> list[str]:
    """Return the commands that are neither a target of the Makefile nor the script that calls them all."""
    known = {f"make {target}" for target in TARGET.findall(makefile)} | {".ci/run"}
    return [command for command in run if command not in known]


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def test_hooks_use_the_environment_of_the_project():
    config = load(".pre-commit-config.yaml")
    assert fetched(config) == []
    assert [hook["entry"].split()[0] for hook in hooks(config)] == [".venv/bin/ruff"] * 2 + [".venv/bin/mypy"]


def test_hooks_check_what_make_check_does():
    told = makefile().replace("$(BIN)", ".venv/bin")
    for hook in hooks(load(".pre-commit-config.yaml")):
        assert hook["entry"].replace(" --force-exclude", "") in told


def test_a_hook_that_is_downloaded_is_caught():
    own = {"id": "ruff", "language": "system"}
    assert fetched({"repos": [{"repo": "local", "hooks": [own]}]}) == []
    assert fetched({"repos": [{"repo": "https://example.org/x", "hooks": [own]}]}) == [
        "https://example.org/x"
    ]
    assert fetched({"repos": [{"repo": "local", "hooks": [own | {"language": "python"}]}]}) == ["ruff"]


def test_the_forge_runs_what_make_runs():
    run = commands(load(".github/workflows/ci.yml"))
    assert {"make check", "make test", ".ci/run"} <= set(run)
    assert strangers(run, makefile()) == []


def test_a_command_of_the_forge_alone_is_caught():
    assert strangers(["make test", "pytest -q"], "test: .venv/.ready\n") == ["pytest -q"]
    assert strangers(["make tests"], "test: .venv/.ready\n") == ["make tests"]


def test_the_forge_may_only_read():
    assert load(".github/workflows/ci.yml")["permissions"] == {"contents": "read"}
