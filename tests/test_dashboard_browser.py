"""The dashboard in a real browser beside a real Label Studio, and the report as a file.

`annotator serve` runs as people run it, in a process of its own; an annotator answers on the
labelling screen in one window while a lead has the dashboard open in another.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, ConsoleMessage, Page, StorageState, expect

from annotator.cli import main
from annotator.labels.votes import vote_counts
from annotator.rounds.batch import BatchRequest, choose_and_record, push_waiting
from annotator.signals import embeddings
from annotator.store import open_db
from annotator.studio.client import Studio
from tests.fake_encoder import FakeEncoder
from tests.played_project import SERVER, play
from tests.pushed_world import remove_projects
from tests.studio_server import RealStudio
from tests.test_browser import LabellingScreen, Watch, anna, chromium, session
from tests.web_server import Serve, serving

__all__ = ["anna", "chromium", "session"]  # fixtures

pytestmark = [pytest.mark.studio, pytest.mark.browser, pytest.mark.timeout(600)]

SECONDS_TO_SHOW = 5.0
SENT = 6
DESK, PHONE = (1400, 900), (400, 860)


@dataclass
class Lead:
    """Somebody with the dashboard open, and everything that the browser complains of."""

    page: Page
    watch: Watch
    complaints: list[str] = field(default_factory=list)

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with votes of three simulated people; vectors come from the texts' hashes."""
    fake = FakeEncoder(name="all-MiniLM-L6-v2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "find_weights", lambda name: fake)
        patch.setattr(embeddings, "load_weights", lambda weights, precision: fake)
        folder = tmp_path_factory.mktemp("dashboard") / "project"
        return play(folder, rounds=3, batch=50, leave_open=0)


@pytest.fixture(scope="module")
def sent(project: Path, real_studio: RealStudio) -> Iterator[int]:
    """A batch that waits on the real server; the project there."""
    path = project / "annotator.db"
    db = open_db(path)
    try:
        # The first rounds were on a server that never was: nothing is to be asked of it.
        db.execute("UPDATE tasks SET state = 'gone' WHERE project_id = 1")
        db.conn.commit()
        encoder_id = db.execute("SELECT max(encoder_id) FROM rounds").fetchone()[0]
        request = BatchRequest(SENT, "hybrid", 0.5, 1, seed=11)
        choose_and_record(db, path, encoder_id, request, dry_run=False)
        with Studio(real_studio.url, real_studio.token) as studio:
            assert push_waiting(db, studio, "Dashboard test", grace_seconds=0).stored == SENT
            query = "SELECT studio_id FROM projects WHERE server <> ?"
            yield int(db.execute(query, [SERVER]).fetchone()[0])
            remove_projects(db, studio)
    finally:
        db.close()


@pytest.fixture(scope="module")
def dashboard(project: Path, sent: int, real_studio: RealStudio) -> Iterator[Serve]:
    """`annotator serve`, at its defaults."""
    with serving(
        project, LABEL_STUDIO_URL=real_studio.url, LABEL_STUDIO_API_KEY=real_studio.token
    ) as running:
        yield running


@contextmanager
def looking(chromium: Browser, url: str, size: tuple[int, int], **options: Any) -> Iterator[Lead]:
    """A window of its own on the page at `url`."""
    viewport = {"width": size[0], "height": size[1]}
    with chromium.new_context(viewport=viewport, **options) as context:
        lead = Lead(context.new_page(), Watch())
        context.on("request", lambda request: lead.watch.requests.append(request.url))
        context.on("dialog", lead.watch.dismiss)
        lead.page.on("console", lead.hear)
        lead.page.goto(url)
        yield lead


@pytest.fixture
def lead(chromium: Browser, dashboard: Serve) -> Iterator[Lead]:
    with looking(chromium, dashboard.url, DESK) as found:
        yield found


def assert_calm(lead: Lead, url: str) -> None:
    """No complaint of the browser, no dialog, and nothing asked of anybody else."""
    assert lead.complaints == []
    assert lead.watch.dialogs == []
    assert lead.watch.outside(url) == []


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(page.evaluate(script))


def votes_shown(page: Page) -> int:
    return int(page.locator("#n-votes").inner_text().replace(",", ""))


# The dashboard.


def test_an_answer_shows_within_seconds_and_without_a_reload(
    chromium: Browser,
    session: StorageState,
    real_studio: RealStudio,
    dashboard: Serve,
    sent: int,
    lead: Lead,
    project: Path,
) -> None:
    expect(lead.page.locator("#n-votes")).to_be_visible()
    before = votes_shown(lead.page)
    lead.page.evaluate("window.neverReloaded = true")
    with chromium.new_context(storage_state=session, viewport={"width": 1400, "height": 900}) as at:
        screen = LabellingScreen(at.new_page(), Watch())
        screen.open(real_studio.url, sent)
        for n, digit in enumerate(("1", "6"), start=1):
            screen.press(digit)
            screen.submit()
            answered = time.monotonic()
            expect(lead.page.locator("#n-votes")).to_have_text(
                f"{before + n:,}", timeout=1000 * SECONDS_TO_SHOW
            )
            assert time.monotonic() - answered < SECONDS_TO_SHOW
    expect(lead.page.locator("#part-pulse tbody tr").first).to_contain_text("anna")
    # What takes a model follows in the background.
    tile = lead.page.locator(".tile", has=lead.page.get_by_text("Votes", exact=True))
    expect(tile.locator(".value")).to_have_text(f"{before + 2:,}", timeout=120_000)
    assert lead.page.evaluate("window.neverReloaded") is True
    assert_calm(lead, dashboard.url)
    db = open_db(project / "annotator.db")
    assert vote_counts(db)["votes"] == before + 2
    db.close()


def test_a_click_on_a_point_of_the_map_shows_the_pair(
    dashboard: Serve, lead: Lead, project: Path
) -> None:
    point = lead.page.locator("#map .map svg a").last
    expect(point).to_be_attached(timeout=120_000)
    prompt_id = int((point.get_attribute("href") or "").rpartition("/")[2])
    words = point.locator("title").text_content() or ""
    assert re.search(r"mean -?[\d.]+, variance [\d.e-]+$", words)
    point.locator("use, path").first.click()
    expect(lead.page).to_have_url(f"{dashboard.url}/prompt/{prompt_id}")
    shown = lead.page.locator("main").inner_text()
    db = open_db(project / "annotator.db")
    texts = db.execute("SELECT text FROM responses WHERE prompt_id = ?", [prompt_id]).fetchall()
    db.close()
    assert len(texts) == 4
    for (text,) in texts:
        assert flat(text) in flat(shown)
    assert_calm(lead, dashboard.url)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_last_answer_leads_to_its_two_responses(dashboard: Serve, lead: Lead) -> None:
    link = lead.page.locator("#part-pulse tbody a").first
    address = link.get_attribute("href") or ""
    assert re.fullmatch(r"/pair/\d+-\d+", address)
    link.click()
    expect(lead.page).to_have_url(f"{dashboard.url}{address}")
    expect(lead.page.get_by_role("article")).to_have_count(2)
    assert_calm(lead, dashboard.url)


def test_a_lead_reads_where_the_project_stands_and_what_is_saved(
    dashboard: Serve, lead: Lead
) -> None:
    standing = lead.page.locator("#standing")
    expect(standing.locator(".lead")).to_contain_text("Spent: ", timeout=120_000)
    saved = standing.locator(".tile.main")
    expect(saved.locator("dt")).to_have_text("Saved")
    value = saved.locator(".value").inner_text()
    assert value in ("not shown yet", "nothing here") or re.fullmatch(r"\d+\s% of votes", value)
    box = saved.bounding_box()
    assert box is not None and box["y"] + box["height"] < DESK[1], "seen without scrolling"
    headings = lead.page.locator("main h2").all_inner_texts()
    assert headings.index("Where we stand") == 0 and "Budget saved" in headings
    expect(lead.page.locator("#saving .answer")).not_to_be_empty()
    assert_calm(lead, dashboard.url)


def test_by_keyboard_alone_a_reader_gets_past_the_bar(dashboard: Serve, lead: Lead) -> None:
    lead.page.keyboard.press("Tab")
    focused = lead.page.locator(":focus")
    expect(focused).to_have_attribute("href", "#main")
    box = focused.bounding_box()
    assert box is not None and box["x"] >= 0, "seen when it has the focus"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction(chromium: Browser, dashboard: Serve, scheme: Any) -> None:
    with looking(chromium, dashboard.url, PHONE, color_scheme=scheme) as lead:
        expect(lead.page.locator("#map .chart, #burn .chart")).to_have_count(3, timeout=120_000)
        assert overflow(lead.page) <= 0
        expect(lead.page.locator("#burn .narrow")).to_be_visible()
        expect(lead.page.locator("#burn .wide")).to_be_hidden()


# The report, as a file.


@pytest.fixture(scope="module")
def report(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that `annotator report` writes of the same project."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    done = CliRunner().invoke(main, ["report", "--project", str(project), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_report_needs_no_script_and_no_network(
    chromium: Browser, report: Path, size: tuple[int, int]
) -> None:
    with looking(chromium, report.as_uri(), size, java_script_enabled=False, offline=True) as lead:
        expect(lead.page.locator("article:visible")).to_have_count(0)
        point = lead.page.locator("#map .map svg a").last
        target = point.get_attribute("href") or ""
        point.locator("use, path").first.click()
        article = lead.page.locator(target)
        expect(article).to_be_in_viewport()
        expect(lead.page.locator("article:visible")).to_have_count(1)
        assert len(article.locator("li").all()) == 4
        article.get_by_role("link", name="Back to the map").click()
        expect(lead.page.locator("#map")).to_be_in_viewport()
        assert lead.complaints == [] and lead.watch.requests == [report.as_uri()]


def test_the_report_looks_as_it_should(chromium: Browser, report: Path) -> None:
    """Its style sheet is let in by its own policy, and the charts have the page's colours."""
    for scheme, ground, line in (
        ("light", "rgb(246, 247, 249)", "rgb(0, 114, 178)"),
        ("dark", "rgb(13, 17, 23)", "rgb(86, 180, 233)"),
    ):
        with looking(chromium, report.as_uri(), DESK, color_scheme=scheme) as lead:
            colour = "document.body && getComputedStyle(document.body).backgroundColor"
            assert lead.page.evaluate(colour) == ground
            drawn = lead.page.locator("#burn .wide svg path[stroke^='var(--series-0']").first
            assert drawn.evaluate("one => getComputedStyle(one).stroke") == line
            assert overflow(lead.page) <= 0
            assert lead.complaints == []


def test_the_report_prints_on_paper(chromium: Browser, report: Path) -> None:
    with looking(chromium, report.as_uri(), DESK, color_scheme="dark") as lead:
        lead.page.emulate_media(media="print")
        colour = "getComputedStyle(document.body).backgroundColor"
        assert lead.page.evaluate(colour) == "rgb(255, 255, 255)"
        expect(lead.page.locator("nav")).to_be_hidden()
        assert lead.page.pdf(format="A4").startswith(b"%PDF")
