"""What the demo needs before its page can open: checked options, models, a face detector, examples."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.config import DemoConfig
from apps.demo import theme
from apps.demo.examples import Examples, read_examples
from apps.demo.security.rules import PublicAddress
from apps.demo.service import DemoService
from apps.demo.text import COPY_SCRIPT
from apps.demo.uploads import UploadFolder
from apps.runtime.session import OnnxClassifier
from apps.runtime.side_by_side import align_classes
from finetune.cli.console import say
from finetune.cli.machine import core_count
from finetune.errors import UsageError
from finetune.experiments.exported.lookup import words_of, words_with_tabs

CLOSING_SECONDS = 1


def tabs(present: Collection[str]) -> dict[str, str]:
    """Return the tabs' titles by task: of the installed tasks with a standing tab, then of others present."""
    standing = {words.kind: words.tab for words in words_with_tabs()}
    return standing | {kind: words_of(kind).tab for kind in present if kind not in standing}


@dataclass(frozen=True)
class RunningDemo:
    """A demo that is being served.

    Args:
        url: where, such as http://127.0.0.1:7860/.
        public: where people find it behind another server; the same as `url` without one.
        services: the tabs' services by the task that their files name.
        examples: the tabs' example images by task.
        folder: where uploads are kept.
        seconds: how long the start took.
    """

    url: str
    public: str
    services: dict[str, DemoService]
    examples: dict[str, Examples]
    folder: UploadFolder
    seconds: float


def check_numbers(config: DemoConfig) -> None:
    """Raise UsageError for invalid numbers in options."""
    if config.keep_minutes <= 0 or config.queue < 1 or config.concurrency < 0:
        raise UsageError("--keep-minutes and --queue must be above 0, --concurrency 0 or more")


def concurrency(config: DemoConfig) -> int:
    """Return how many requests are answered at the same time."""
    return config.concurrency or core_count()


def load_models(paths: Sequence[Path], config: DemoConfig) -> dict[str, list[OnnxClassifier]]:
    """Return the models by task, each with its share of the cores, and say what they are and run on.

    A tab's models with the same classes in another order are put into one order, which is said.

    Raises UsageError without any, ModelFileError for a file that cannot be used and for a tab's models with
    different classes.
    """
    threads = max(1, core_count() // concurrency(config))
    models = [OnnxClassifier(path, device=config.device, threads=threads) for path in paths]
    if not models:
        raise UsageError("give one .onnx file or more; crl export makes them from a finished run")
    by_task: dict[str, list[OnnxClassifier]] = {}
    for model in models:
        by_task.setdefault(model.facts.task, []).append(model)
        say(f"{words_of(model.facts.task).tab}: {model.title}, {len(model.class_names)} classes")
    for together in by_task.values():
        for note in align_classes(together):
            say(f"note: {note}")
    for note in dict.fromkeys(model.device_note for model in models):
        say(note)
    return by_task


def load_examples(config: DemoConfig, models: Sequence[OnnxClassifier]) -> Examples:
    """Return the example images for a tab with these models, and say which were left out."""
    if config.examples is None:
        return Examples()
    found = read_examples(Path(config.examples), models[0].class_names)
    for notice in found.notices:
        say(f"note: {notice}")
    return found


def build_services(
    by_task: dict[str, list[OnnxClassifier]],
    examples: dict[str, Examples],
    folder: UploadFolder,
    config: DemoConfig,
) -> dict[str, DemoService]:
    """Return the services by task, in the order of the tabs, and say how faces are found."""
    detector = None
    if any(model.facts.crop is not None for models in by_task.values() for model in models):
        from agecls.faces.detector import build_detector, missing_detector_message

        detector = build_detector(config.detector)
        say(f"faces are found by {detector.name}" if detector else f"note: {missing_detector_message()}")
    return {
        task: DemoService(
            by_task[task],
            detector,
            owns=_opener(folder, examples[task]),
            max_files=config.max_files,
            max_mb=config.max_mb,
            known_class=examples[task].class_of,
        )
        for task in tabs(by_task)
        if task in by_task
    }


def _opener(folder: UploadFolder, examples: Examples) -> Callable[[Path], bool]:
    return lambda path: folder.owns(path) or examples.holds(path)


@contextmanager
def without_stubs() -> Iterator[None]:
    """Import gradio without writing its type stubs, which take most of the time of its import.

    At each import gradio parses the source of each of its components and writes a stub for editors beside it.
    It passes over a component whose file Python cannot name, and so it does here over all of them.
    """
    getfile = inspect.getfile

    def unnamed(object: Any) -> str:
        if type(object).__name__ == "ComponentMeta":
            raise OSError(f"{object.__name__} gets no stub")
        return getfile(object)

    inspect.getfile = unnamed
    try:
        yield
    finally:
        inspect.getfile = getfile


def launch(
    blocks: Any,
    look: Any,
    folder: UploadFolder,
    config: DemoConfig,
    port: int,
    people: list[tuple[str, str]] | None,
    public: PublicAddress | None,
) -> None:
    """Start the server of gradio's `blocks` in a thread of its own, with its theme `look`.

    Everything that reaches beyond this machine is off.
    """
    from apps.demo.security import startup as guard

    here = Path.cwd()
    blocks.queue(
        api_open=False,  # otherwise a direct call of a route walks past the queue
        max_size=config.queue,
        default_concurrency_limit=concurrency(config),
    )
    blocks.launch(
        prevent_thread_lock=True,
        server_name=bracketed(config.host),
        server_port=port,
        share=False,
        inbrowser=False,
        inline=False,
        show_error=False,
        quiet=True,
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        footer_links=[],
        num_workers=0,
        max_threads=max(40, 2 * concurrency(config)),
        auth=people,
        max_file_size=round(config.max_mb * 1e6),
        allowed_paths=None,
        blocked_paths=[] if here in folder.path.parents else [str(here)],
        favicon_path=str(theme.FAVICON),
        theme=look,
        css_paths=str(theme.STYLESHEET),
        js=COPY_SCRIPT,
        root_path=public.url if public else None,
        app_kwargs=guard.app_kwargs(
            folder, host=config.host, max_files=config.max_files, max_mb=config.max_mb, public=public
        ),
    )


def address(host: str, port: int) -> str:
    """Return the address to open in a browser on this machine.

    >>> address("127.0.0.1", 7860), address("0.0.0.0", 80), address("::1", 7860)
    ('http://127.0.0.1:7860/', 'http://127.0.0.1:80/', 'http://[::1]:7860/')
    """
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host)
    return f"http://{bracketed(shown)}:{port}/"


def bracketed(host: str) -> str:
    """Return a host as it stands in an address: an IPv6 number in brackets.

    >>> bracketed("::1"), bracketed("[::1]"), bracketed("localhost")
    ('[::1]', '[::1]', 'localhost')
    """
    return f"[{host}]" if ":" in host and "[" not in host else host


def close_soon(blocks: Any) -> None:
    """Let the server of gradio's Blocks wait a moment only for open connections when it closes.

    Otherwise an upload that is under way, or a sender that fell silent, holds the end up for seconds. That
    such a connection was cut is no news then; the next start sets the server's log level again.
    """
    if getattr(blocks, "server", None) is not None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        blocks.server.config.timeout_graceful_shutdown = CLOSING_SECONDS
