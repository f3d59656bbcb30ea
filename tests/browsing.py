"""A browser for tests of pages."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


@dataclass
class Opened:
    """A report in a tab, and everything the tab complained about or asked for."""

    page: Any
    seconds: float
    troubles: list[str] = field(default_factory=list)

    def text(self, where: str) -> str:
        return self.page.locator(where).inner_text()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        if os.environ.get("SELFINFORMED_BROWSER") == "required":
            pytest.fail("no Chromium; .ci/run installs one")
        pytest.skip("no Chromium on this machine; apt-get install chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    contexts = []

    def open_page(path: Path, fragment: str = "", **options: Any) -> Opened:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        tab = Opened(context.new_page(), 0.0)
        tab.page.on("console", lambda message: tab.troubles.append(f"console {message.type}: {message.text}"))
        tab.page.on("pageerror", lambda error: tab.troubles.append(f"error: {error}"))
        tab.page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else tab.troubles.append(f"asked for {request.url[:99]}"))
        tab.page.on("dialog", lambda dialog: (tab.troubles.append(f"dialog {dialog.message}"), dialog.dismiss()))
        start = time.perf_counter()
        tab.page.goto(f"file://{path}{fragment}")
        tab.page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
        tab.seconds = time.perf_counter() - start
        return tab

    yield open_page
    for context in contexts:
        context.close()
