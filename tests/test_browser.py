"""What an annotator sees and does, in a real browser on a real Label Studio.

Everything here goes through the page: log in, read, press keys. What the page did is then read
from our database after `sync`, or from the browser's own record of its requests.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    Dialog,
    FloatRect,
    Locator,
    Page,
    Response,
    StorageState,
    expect,
    sync_playwright,
)
from sqlite_utils import Database

from annotator.candidates.identity import Message
from annotator.labels.votes import VoteCounts
from annotator.rounds.batch import push_waiting
from annotator.rounds.sync import sync
from annotator.studio.client import Studio
from annotator.studio.projects import projects_on
from tests.small_world import add_prompt, add_round
from tests.studio_server import Account, RealStudio

pytestmark = [pytest.mark.studio, pytest.mark.browser]

ARTIFACTS = Path(__file__).resolve().parents[1] / "test-artifacts"
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@dataclass
class Watch:
    """What the pages of a browser asked for and opened, from the first moment on."""

    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    windows: list[str] = field(default_factory=list)

    def dismiss(self, dialog: Dialog) -> None:
        """Notes a dialog and closes it; the page would wait for that for ever."""
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def outside(self, url: str) -> list[str]:
        """Requests to anything but the server at `url`; what the page carries itself is inside."""
        own = urlsplit(url)[:2]
        parts = [(request, urlsplit(request)) for request in self.requests]
        return [r for r, at in parts if at.scheme not in {"data", "blob"} and at[:2] != own]


@dataclass(frozen=True)
class LabellingScreen:
    """The label stream of one project, as the person who is logged in uses it."""

    page: Page
    watch: Watch

    def open(self, url: str, project_id: int) -> None:
        self.page.goto(f"{url}/projects/{project_id}/data?labeling=1")
        self.wait_for_pair(after=[])

    def wait_for_pair(self, after: list[str]) -> None:
        """Until both responses of another pair than `after` are drawn."""
        self.page.wait_for_function(
            """before => {
                const shown = [...document.querySelectorAll('.pair-box')].map(e => e.innerText);
                return shown.length === 2 && shown.every(text => text.trim())
                    && shown.join('\\n') !== before;
            }""",
            arg="\n".join(after),
        )

    @property
    def prompt(self) -> str:
        return self.page.locator(".pair-prompt [class*=dialoguetext--]").inner_text()

    @property
    def pair(self) -> list[str]:
        """The left and the right response, as drawn."""
        return self.page.locator(".pair-box").all_inner_texts()

    @property
    def send_button(self) -> Locator:
        """Submit, or Update where the task has an answer already."""
        buttons = "[data-testid=bottombar-submit-button], [data-testid=bottombar-update-button]"
        return self.page.locator(buttons)

    def press(self, *digits: str) -> None:
        """Chooses by keys, and sees each choice marked."""
        expect(self.send_button).to_be_visible()
        for digit in digits:
            self.page.keyboard.press(digit)
            chosen = self.page.locator(".pair-answer label", has_text=f"[{digit}]")
            expect(chosen.locator("input")).to_be_checked()

    def explain(self, reason: str) -> None:
        """Types a reason, coming to its box with the tabulator as someone without a mouse does."""
        inside = "document.activeElement.closest('.pair-why') !== null"
        for _ in range(40):
            if self.page.evaluate(inside):
                break
            self.page.keyboard.press("Tab")
        assert self.page.evaluate(inside), "no Tab leads to the box for the reason"
        self.page.keyboard.type(reason)
        self.page.keyboard.press("Enter")
        expect(self.page.locator(".pair-why").get_by_text(reason)).to_be_visible()

    def submit(self) -> None:
        expect(self.send_button).to_be_enabled()
        self._send("Control+Enter")

    def skip(self) -> None:
        expect(self.send_button).to_be_visible()
        self._send("Control+Space")

    def update(self) -> None:
        """Sends a changed answer; the same pair stays on the screen."""
        expect(self.send_button).to_have_text("Update")
        with self.page.expect_response(is_answer) as sent:
            self.page.keyboard.press("Control+Enter")
        assert sent.value.status == 200

    def back(self) -> None:
        """To the pair before this one."""
        before = self.pair
        self.page.get_by_test_id("prev-task").click()
        self.wait_for_pair(after=before)

    def _send(self, keys: str) -> None:
        before = self.pair
        with self.page.expect_response(is_answer) as sent:
            self.page.keyboard.press(keys)
        assert sent.value.status == 201
        self.wait_for_pair(after=before)


def is_answer(response: Response) -> bool:
    """Whether this is the server's reply to an annotation that was made or changed."""
    return response.request.method in {"POST", "PATCH"} and "/annotations" in response.url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's Chromium; without one a test is skipped, and fails under CI."""
    executable = shutil.which("chromium")
    if executable is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium on the path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def anna(real_studio: RealStudio) -> Account:
    """The annotator who sits before the screen."""
    return real_studio.annotators[0]


@pytest.fixture(scope="module")
def session(chromium: Browser, real_studio: RealStudio, anna: Account) -> StorageState:
    """The cookies of anna, who has logged in through the form."""
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"{real_studio.url}/user/login/")
        page.fill("input[name=email]", anna.email)
        page.fill("input[name=password]", anna.password)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "/login" not in url)
        return context.storage_state()


@pytest.fixture
def screen(chromium: Browser, session: StorageState) -> Iterator[LabellingScreen]:
    """A window in which anna is logged in, watched."""
    with chromium.new_context(
        storage_state=session, viewport={"width": 1400, "height": 900}
    ) as context:
        page, watch = context.new_page(), Watch()
        # Of the context, so that frames and windows that a text might open are heard too.
        context.on("request", lambda request: watch.requests.append(request.url))
        context.on("page", lambda opened: watch.windows.append(opened.url))
        context.on("dialog", watch.dismiss)
        yield LabellingScreen(page, watch)


@dataclass(frozen=True)
class Sent:
    """Pairs that wait on the server, and the project they wait in."""

    project_id: int
    pick_ids: list[int]


Send = Callable[[list[tuple[str, str, str]]], Sent]


@pytest.fixture
def studio(real_studio: RealStudio) -> Iterator[Studio]:
    with Studio(real_studio.url, real_studio.token) as client:
        yield client


@pytest.fixture
def send(db: Database, studio: Studio) -> Iterator[Send]:
    """Sends (prompt, response, response) as a round of a new project, gone after the test."""
    made: list[int] = []

    def send(texts: list[tuple[str, str, str]]) -> Sent:
        pairs = [add_prompt(db, user_asks(prompt), list(pair)) for prompt, *pair in texts]
        pick_ids = add_round(db, [(a, b) for a, b in pairs])
        assert push_waiting(db, studio, "Browser test", grace_seconds=0).stored == len(texts)
        project_id = projects_on(db, studio.url)[0].studio_id
        made.append(project_id)
        return Sent(project_id, pick_ids)

    yield send
    for project_id in made:
        studio.delete_project(project_id)


def user_asks(prompt: str) -> list[Message]:
    return [{"role": "user", "content": prompt}]


GOOD, POOR = "The better answer, {}.", "The poorer answer, {}."
N_PAIRS = 8


def test_what_is_pressed_on_the_screen_is_what_sync_brings_in(
    db: Database,
    studio: Studio,
    real_studio: RealStudio,
    screen: LabellingScreen,
    send: Send,
    anna: Account,
) -> None:
    reason = "2 of its 3 facts are wrong, 1 is not"
    sent = send([(f"Question {i}?", GOOD.format(i), POOR.format(i)) for i in range(N_PAIRS)])
    screen.open(real_studio.url, sent.project_id)

    assert shown(screen, 0)
    screen.press(key_for("better", screen, much=True), "8")
    screen.submit()
    assert shown(screen, 1)
    screen.press(key_for("better", screen))
    screen.explain(reason)
    screen.submit()
    assert shown(screen, 2)
    screen.skip()
    assert shown(screen, 3)
    screen.press("4", "7")
    screen.submit()

    assert sync(db, studio).counts == VoteCounts(votes=3, skips=1)
    assert votes(db) == {
        sent.pick_ids[0]: ("vote", grade_of(db, sent.pick_ids[0], "better", "much_"), "high", None),
        sent.pick_ids[1]: ("vote", grade_of(db, sent.pick_ids[1], "better"), None, reason),
        sent.pick_ids[2]: ("skip", None, None, None),
        sent.pick_ids[3]: ("vote", "both_bad", "low", None),
    }
    sides = db.execute("SELECT side_order FROM picks ORDER BY place LIMIT 2").fetchall()
    assert sides == [("ab",), ("ba",)], "both ways of showing a pair are to be tried"
    for name, seconds, prefilled in db.execute(WHO):
        assert (name, prefilled) == (anna.email, 0)
        assert seconds > 0

    assert shown(screen, 4)
    for place in (3, 2, 1, 0):
        screen.back()
        assert shown(screen, place)
    screen.press(key_for("poorer", screen))
    screen.update()

    assert sync(db, studio).counts == VoteCounts(edits=1)
    first = votes(db)[sent.pick_ids[0]]
    assert first == ("vote", grade_of(db, sent.pick_ids[0], "poorer"), "high", None)
    assert len(votes(db)) == 4
    assert sync(db, studio).counts == VoteCounts()


WHO = """SELECT a.name, v.seconds, v.prefilled FROM current_votes v
    JOIN annotators a ON a.id = v.annotator_id"""


def shown(screen: LabellingScreen, place: int) -> bool:
    """Whether the pair sent at that place is on the screen, with its prompt."""
    assert screen.prompt == f"Question {place}?"
    return sorted(screen.pair) == [GOOD.format(place), POOR.format(place)]


def key_for(word: str, screen: LabellingScreen, *, much: bool = False) -> str:
    """The key that prefers the response with that word, wherever it is on the screen."""
    left, right = (word in text for text in screen.pair)
    assert left != right
    return {(True, True): "1", (True, False): "2", (False, False): "5", (False, True): "6"}[
        left, much
    ]


def grade_of(db: Database, pick_id: int, word: str, much: str = "") -> str:
    """The grade that prefers the response with that word, from what the pair holds."""
    query = """SELECT a.text, b.text FROM picks p JOIN responses a ON a.id = p.a_id
        JOIN responses b ON b.id = p.b_id WHERE p.id = ?"""
    a, b = (word in text for text in db.execute(query, [pick_id]).fetchone())
    assert a != b
    return f"{'a' if a else 'b'}_{much}better"


def votes(db: Database) -> dict[int, tuple[str, str | None, str | None, str | None]]:
    """Pick id -> status, grade, confidence and rationale that stand now."""
    query = "SELECT pick_id, status, grade, confidence, rationale FROM current_votes"
    return {row[0]: row[1:] for row in db.execute(query)}


BAIT = "http://tracker.example"
TRAP = "window.trapped = true; top.trapped = true; alert(1)"
HOSTILE_HTML = f"""<script>{TRAP}</script><script src="{BAIT}/a.js"></script>
<img src="{BAIT}/a.png" onerror="{TRAP}"><img src=x onerror="{TRAP}">
<iframe src="{BAIT}/frame"></iframe><iframe srcdoc="<script>{TRAP}</script>"></iframe>
<svg onload="{TRAP}"></svg><details open ontoggle="{TRAP}">
<link rel="stylesheet" href="{BAIT}/a.css"><style>* {{ display: none; background: url({BAIT}/b) }}
</style><video src="{BAIT}/a.mp4" autoplay></video><base href="{BAIT}"><meta http-equiv="refresh"
content="0;url={BAIT}"></div></body></html><!-- --><form action="{BAIT}"><button>Go</button>"""
MARKDOWN = f"![chart]({BAIT}/m.png) [here](javascript:{TRAP.split(';')[0]}) **bold** `x` {BAIT}/a"
ENTITIES = "&lt;b&gt; &amp;amp; &#60;i&#62; &#x202E; &nbsp;| {{7*7}} ${7*7} $response_left <b>x</b>"
OVERRIDE = "send to \u202egpj.exe\u2069 now"
OVERRIDE_SHOWN = "send to ⟦U+202E⟧gpj.exe⟦U+2069⟧ now"
LONG = 200_000
ONE_LINE = f"{'x' * (LONG - 10)}<b>END</b>"
MANY_LINES = "\n".join(f"{i:05} <i>line</i> &amp; {'word ' * 4}." for i in range(LONG // 40))


def test_hostile_text_is_shown_as_text(
    db: Database, studio: Studio, real_studio: RealStudio, screen: LabellingScreen, send: Send
) -> None:
    pairs = [
        (HOSTILE_HTML, f"{HOSTILE_HTML} 1", f"{HOSTILE_HTML} 2"),
        (MARKDOWN, f"{BAIT}/whole-response.png", MARKDOWN),
        (ENTITIES, ENTITIES, OVERRIDE),
        (ONE_LINE, ONE_LINE, MANY_LINES),
    ]
    sent = send([*pairs, ("The end", "this", "that")])
    screen.open(real_studio.url, sent.project_id)
    for texts in pairs:
        prompt, *pair = (text.replace(OVERRIDE, OVERRIDE_SHOWN) for text in texts)
        assert screen.prompt == prompt
        assert sorted(screen.pair) == sorted(pair)
        assert_nothing_covers_the_answers(screen)
        screen.press("3")
        screen.submit()
    assert screen.prompt == "The end"

    assert screen.watch.outside(real_studio.url) == []
    assert (screen.watch.dialogs, screen.watch.windows) == ([], [])
    assert screen.page.evaluate("window.trapped === undefined")
    assert [frame.url for frame in screen.page.frames] == [screen.page.url]
    assert sync(db, studio).counts == VoteCounts(votes=len(pairs))
    assert_the_watch_is_awake(screen, real_studio.url)


def assert_the_watch_is_awake(screen: LabellingScreen, url: str) -> None:
    """What the texts were to set off does get noticed when a page does it itself."""
    with screen.page.expect_event("requestfailed"):
        screen.page.evaluate(f"() => {{ new Image().src = '{BAIT}/awake.png'; alert('awake'); }}")
    assert screen.watch.outside(url) == [f"{BAIT}/awake.png"]
    assert screen.watch.dialogs == ["awake"]


def assert_nothing_covers_the_answers(screen: LabellingScreen) -> None:
    """Every answer, both boxes and the buttons lie within the window, side by side and clear of
    each other; only the boxes scroll."""
    size = screen.page.viewport_size
    assert size is not None
    left, right = (box(found) for found in screen.page.locator(".pair-box").all())
    answers = box(screen.page.locator(".pair-answer"))
    send_button = box(screen.send_button)
    assert left["x"] + left["width"] <= right["x"]
    assert abs(left["width"] - right["width"]) < 2
    assert max(left["y"] + left["height"], right["y"] + right["height"]) <= answers["y"] + 1
    assert min(left["height"], right["height"]) >= 150
    assert answers["y"] + answers["height"] <= send_button["y"] + 1
    assert send_button["y"] + send_button["height"] <= size["height"]
    for choice in screen.page.locator(".pair-answer label").all():
        place = box(choice)
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= size["width"]
    root = "document.documentElement"
    assert screen.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")


def box(found: Locator) -> FloatRect:
    """Where it is in the window, in pixels."""
    place = found.bounding_box()
    assert place is not None
    return place


def demo_pair() -> tuple[str, str, str]:
    """The longest pair of the shipped sample that has a plain prompt, with that prompt."""
    lines = (files("annotator.demo") / "candidates.jsonl").read_text(encoding="utf-8").splitlines()
    plain = [row for row in map(json.loads, lines) if isinstance(row["prompt"], str)]
    pairs = [
        (row["prompt"], *sorted((r["text"] for r in row["responses"]), key=len)[-2:])
        for row in plain
    ]
    return max(pairs, key=lambda pair: len(pair[1]) + len(pair[2]))


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (1000, 800)])
def test_everything_is_in_sight(
    real_studio: RealStudio, screen: LabellingScreen, send: Send, width: int, height: int
) -> None:
    screen.page.set_viewport_size({"width": width, "height": height})
    sent = send([demo_pair()])
    screen.open(real_studio.url, sent.project_id)
    screen.press("2", "8")
    ARTIFACTS.mkdir(exist_ok=True)
    picture = ARTIFACTS / f"labelling-screen-{width}x{height}.png"
    screen.page.screenshot(path=picture, animations="disabled")
    assert_nothing_covers_the_answers(screen)
    assert screen.page.locator(".pair-answer label").count() == 8
