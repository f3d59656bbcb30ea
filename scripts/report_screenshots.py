"""Pictures of a report in every state, for docs/: `python scripts/report_screenshots.py runs/demo`."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parents[1] / "docs"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


def main(run: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        page = browser.new_page(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
        page.goto(f"file://{(run / 'report.html').resolve()}")
        page.wait_for_selector("html[data-ready=yes]")
        keep(page, "verdict")
        page.locator("#table-arms thead th", has_text="mAP@").locator("button").click()
        at(page, "#arms", "arms-sorted")
        at(page, "#changes", "changes")
        page.click("#closer")
        page.click("#closer")
        page.hover("#matrix", position={"x": 120, "y": 120})
        at(page, "#confusions", "matrix-zoomed")
        at(page, "#groups", "groups")
        at(page, "#more-evidence", "evidence")
        page.click("#theme")
        page.evaluate("scrollTo(0, 0)")
        page.keyboard.press("/")
        page.keyboard.type("a")
        keep(page, "search-dark")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        at(page, "#explorer", "label-dark")
        phone = browser.new_page(viewport={"width": 390, "height": 800})
        phone.goto(page.url.partition("#")[0])
        phone.wait_for_selector("html[data-ready=yes]")
        keep(phone, "phone")
        browser.close()


def at(page: Any, where: str, name: str) -> None:
    page.evaluate(f"document.querySelector('{where}').scrollIntoView()")
    keep(page, name)


def keep(page: Any, name: str) -> None:
    page.wait_for_timeout(400)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(160).save(DOCS / f"report-{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
