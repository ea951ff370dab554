#!/usr/bin/env python
"""Takes docs/images/dashboard-*.png anew: the dashboard of a played project, in a real Chromium.

    scripts/screenshots.py [FOLDER]

The project is the shipped sample with three simulated people who answer seven rounds: nothing in
it is of a real person. Needs Playwright, Chromium and the encoder's weights; a stand-in takes Label
Studio's place.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from annotator.report.project_view import NOT_YET  # noqa: E402
from tests.fake_studio import fake_studio  # noqa: E402
from tests.played_project import play  # noqa: E402
from tests.web_server import Serve, serving  # noqa: E402

PICTURES = ROOT / "docs" / "images"
BUDGET = {"currency": "EUR", "rate_vote": 0.12, "cap_votes": 1200, "cap_cost": 150}
# name: width, height, colours, the part that stands at the top (None: the page's beginning)
SHOTS = {
    "dashboard-light": (1400, 1000, "light", None),
    "dashboard-map-dark": (1400, 1000, "dark", "map"),
    "dashboard-phone-light": (400, 860, "light", None),
    "dashboard-phone-dark": (400, 860, "dark", "saving"),
}
PATIENCE = 600_000  # milliseconds for the parts that take a model
MOST_BYTES = 250_000


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        project = play(Path(scratch) / "project", rounds=7, batch=60, overlap=2, budget=BUDGET)
        with (
            fake_studio() as studio,
            serving(
                project,
                "--no-webhook",
                LABEL_STUDIO_URL=studio.url,
                LABEL_STUDIO_API_KEY=studio.token,
            ) as running,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for name, shot in SHOTS.items():
                take(browser, running, folder / f"{name}.png", *shot)
            browser.close()


def take(
    browser: Browser, running: Serve, picture: Path, width: int, height: int, scheme: str,
    part: str | None,
) -> None:  # fmt: skip
    """One picture, once every part is there."""
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page.goto(running.url)
    expect(page.locator("#map .chart")).to_be_attached(timeout=PATIENCE)
    expect(page.get_by_text(NOT_YET)).to_have_count(0, timeout=PATIENCE)
    if part is not None:
        scroll_to(page, part)
    page.screenshot(path=picture, animations="disabled")
    page.close()
    size = picture.stat().st_size
    print(f"{picture}: {size / 1000:.0f} kB")
    assert size < MOST_BYTES


def scroll_to(page: Page, part: str) -> None:
    page.locator(f"#{part}").evaluate("one => window.scrollTo(0, one.offsetTop - 16)")
    page.wait_for_timeout(600)


if __name__ == "__main__":
    main()
