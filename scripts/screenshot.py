#!/usr/bin/env python
"""Takes docs/labelling-screen.png anew: a demo pair on the labelling screen, 1400 by 900.

    scripts/screenshot.py [FILE]

Starts a Label Studio of its own in a temporary folder, from the environment that `annotator studio
up` or `scripts/test` installed (ANNOTATOR_STUDIO_ENV names it), and needs Playwright and Chromium.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from annotator.studio.client import Studio
from annotator.studio.local import LocalStudio, RunningStudio, default_environment, default_home
from annotator.studio.screen import config_xml, task_data

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "labelling-screen.png"
PROMPT, LEFT, RIGHT = "packing-light-week", "r2", "r4"
WIDTH, HEIGHT = 1400, 900


def main() -> None:
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    with tempfile.TemporaryDirectory() as scratch:
        local = LocalStudio(Path(scratch), default_environment(default_home()))
        running = local.up(progress=lambda line: print(line, file=sys.stderr))
        try:
            take(running, demo_project(running), picture)
        finally:
            local.down()
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


def demo_project(running: RunningStudio) -> int:
    """The id of a project that holds the one pair."""
    with Studio(running.url, running.token) as studio:
        project = studio.create_project(
            title="Demo", mark="screenshot", config_xml=config_xml(), overlap=1
        )
        studio.import_tasks(project.id, [demo_task()])
    return project.id


def demo_task() -> dict[str, object]:
    sample = (files("annotator.demo") / "candidates.jsonl").read_text(encoding="utf-8")
    rows = {row["id"]: row for row in map(json.loads, sample.splitlines())}
    texts = {response["id"]: response["text"] for response in rows[PROMPT]["responses"]}
    prompt = rows[PROMPT]["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return task_data("demo", messages, texts[LEFT], texts[RIGHT])


def take(running: RunningStudio, project_id: int, picture: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        log_in(page, running)
        page.goto(f"{running.url}/projects/{project_id}/data?labeling=1")
        expect(page.get_by_test_id("bottombar-submit-button")).to_be_visible()
        page.keyboard.press("1")
        expect(page.locator("label", has_text="[1]").locator("input")).to_be_checked()
        # Animations at their end: the button that a choice has just woken up is half faded in.
        page.screenshot(path=picture, animations="disabled")
        browser.close()


def log_in(page: Page, running: RunningStudio) -> None:
    annotator = next(person for person in running.people if person.role == "annotator")
    page.goto(f"{running.url}/user/login/")
    page.fill("input[name=email]", annotator.email)
    page.fill("input[name=password]", annotator.password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/login" not in url)


if __name__ == "__main__":
    main()
