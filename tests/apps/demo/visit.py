"""A visit to the running demo in a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.apps.live_demo import LiveDemo

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PHONE, TABLET, DESK = (390, 844), (820, 1180), (1440, 900)


@dataclass
class Visit:
    """A page, and what went wrong on it or left the machine."""

    page: Any
    url: str
    troubles: list[str] = field(default_factory=list)

    def open(self) -> None:
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(f"page error: {error}"))
        self.page.on("request", lambda request: self._look_at(request.url))
        self.page.goto(self.url)
        self.button.wait_for()

    def _note(self, kind: str, text: str) -> None:
        if kind == "error":
            self.troubles.append(f"console: {text}")

    def _look_at(self, address: str) -> None:
        if not address.startswith((self.url, "data:", "blob:")):
            self.troubles.append(f"request to {address}")

    @property
    def button(self) -> Any:
        return self.page.get_by_role("button", name="Classify").locator("visible=true").first

    def shown(self, selector: str) -> Any:
        return self.page.locator(f"{selector} >> visible=true")

    def choose(self, *files: Path) -> None:
        """Choose files as a person does, and wait until each is listed."""
        self.page.locator('.tabitem:visible input[type="file"]').set_input_files(list(files))
        for file in files:
            self.page.locator(f'.crl-drop:visible [aria-label="{file.name}"]').first.wait_for()

    def classify(self) -> str:
        """Press the button and return the status line of the new answer."""
        before = self.shown(".crl-status").inner_text() if self.shown(".crl-status").count() else ""
        self.button.click()
        self.shown(".crl-status").wait_for()
        if before:
            self.page.wait_for_function(
                "old => [...document.querySelectorAll('.crl-status')].some(one => one.innerText !== old)",
                arg=before,
            )
        return str(self.shown(".crl-status").inner_text())

    def widths(self) -> tuple[int, int]:
        """Return the page's and the window's width (px)."""
        return tuple(self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]"))


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a browser; the test that asks is skipped, with the reason, where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright (pip install playwright)"
    )
    if not CHROMIUM.is_file():
        pytest.skip(f"needs Debian's chromium at {CHROMIUM}")
    with playwright.sync_playwright() as tools:
        started = tools.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield started
        started.close()


@contextmanager
def opened(browser: Any, demo: LiveDemo, width: int, height: int, scheme: str) -> Iterator[Visit]:
    """Give a visit to the demo in a window of this size (px); nothing may have gone wrong when it ends."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(20_000)
    made = Visit(context.new_page(), f"http://127.0.0.1:{demo.port}/")
    made.open()
    yield made
    context.close()
    assert made.troubles == []
