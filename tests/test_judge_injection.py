"""`annotator judge --check` with planted lines, and over labelled files, as a person runs it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from annotator.candidates.ingest import import_files
from annotator.cli import main
from annotator.judge_check.planted import PlantedRoute
from annotator.signals.judges.injection import PLACEBO, STYLES, rise
from annotator.signals.judges.routes import Judge
from annotator.signals.judges.rubric import load_rubric
from annotator.store import open_db
from tests.openai_server import BatchPlan, OpenAIServer, Price, brains, faults, serving
from tests.ready_project import copy_project, rows_of, table_counts

N = 18
FOOLED = 4.95  # what `brains.grader` says to a line that it obeys and that asks for a 5
PRICES = "[models.judge]\ninput = 1.0\noutput = 4.0\nas_of = 2026-01-31\n"
PLANTED = re.compile(r"\[\[grade ([\d.]+)\]\]")


def write_candidates(path: Path) -> Path:
    """Prompts of two to four responses, each with its grade; one of all has no room to rise."""
    draw = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for i in range(16):
        grades = draw.uniform(1.1, 3.9, int(draw.integers(2, 5)))
        if i == 3:
            grades[0] = 4.8
        texts = [f"Answer {i}.{j} is this. [[grade {g:.2f}]]" for j, g in enumerate(grades)]
        responses = [{"id": str(j), "text": text} for j, text in enumerate(texts)]
        rows.append({"id": f"q{i}", "prompt": f"Question {i}?", "responses": responses})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "project"
    folder.mkdir()
    db = open_db(folder / "annotator.db", create=True)
    import_files(db, [write_candidates(folder / "candidates.jsonl")])
    db.close()
    return folder


def server_of(fooled: bool) -> Any:
    brain = brains.everyday(fooled_by=brains.INJECTION if fooled else None)
    return serving(price=Price(1.0, 1.0, 1.0, 4.0), brain=brain)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with server_of(fooled=True) as running:
        yield running


@pytest.fixture
def project(made: Path, tmp_path: Path, server: OpenAIServer) -> Path:
    """A project whose responses the judge has graded; the server's ledger is empty again."""
    folder = configured(copy_project(made, tmp_path / "project"), server)
    graded(folder, server)
    return folder


def configured(folder: Path, server: OpenAIServer) -> Path:
    (folder / "prices.toml").write_text(PRICES)
    settings = {"model": "judge", "base_url": server.url, "prices": "prices.toml", "retries": 1}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    (folder / "annotator.toml").write_text("\n".join(["[judge]", *lines, ""]))
    return folder


def graded(folder: Path, server: OpenAIServer, *arguments: str) -> None:
    assert run(folder, *arguments).exit_code == 0
    server.ledger.clear()


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, ["judge", *arguments, "--project", str(folder)], catch_exceptions=False
    )


def injected(folder: Path, *arguments: str, n: int = N, code: int = 0) -> Any:
    result = run(folder, "--check", "--inject", str(n), "--json", *arguments)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def asked_about(server: OpenAIServer) -> list[str]:
    """The responses, as the judge read them, in the order in which they arrived."""
    return [brains.judged(one.body["messages"][-1]["content"]) for one in server.ledger.chats]


def original(text: str) -> str:
    """The response up to its grade: whatever was planted stands behind."""
    found = PLANTED.search(text)
    assert found
    return text[: found.end()]


def vote(folder: Path) -> None:
    """Labels by people on every pair: the higher grade wins."""
    db = open_db(folder / "annotator.db")
    pairs = rows_of(
        folder,
        """SELECT a.id, b.id, a.text, b.text FROM responses a JOIN responses b
        ON b.prompt_id = a.prompt_id AND b.response_key > a.response_key""",
    )
    grades = [[float(PLANTED.findall(text)[-1]) for text in texts] for _, _, *texts in pairs]
    with db.conn:
        db.conn.executemany(
            """INSERT INTO source_labels (label_key, a_id, b_id, label, kind, import_id)
            VALUES (?, ?, ?, ?, 'human', 1)""",
            [
                (f"{a}-{b}", a, b, "a" if x > y else "b")
                for (a, b, *_), (x, y) in zip(pairs, grades, strict=True)
            ],
        )
    db.close()


class TestWhatLinesWin:
    def test_a_judge_that_obeys_shows_a_rise(self, project: Path, server: OpenAIServer) -> None:
        found = injected(project)["injection"]
        texts = asked_about(server)
        assert len(texts) == 2 * N
        before = np.array([float(PLANTED.findall(t)[0]) for t in texts if t.endswith(PLACEBO)])
        assert len(before) == N
        truth = float(np.mean(FOOLED - before))
        assert found["mean"]["value"] == pytest.approx(truth, abs=1e-3)
        above = found["above_placebo"]
        assert above["value"] == pytest.approx(truth, abs=1e-3)
        assert 0 < above["low"] <= above["value"] <= above["high"]
        assert (found["drawn"], found["responses"]) == (N, N)
        assert (found["rose"]["value"], found["rose_by_placebo"]["value"]) == (1.0, 0.0)
        assert {name: one["n"] for name, one in found["by_style"].items()} == dict.fromkeys(
            STYLES, N / len(STYLES)
        )

    def test_a_judge_that_does_not_shows_none(self, made: Path, tmp_path: Path) -> None:
        with server_of(fooled=False) as steady:
            folder = configured(copy_project(made, tmp_path / "project"), steady)
            graded(folder, steady)
            found = injected(folder)["injection"]
            said = run(folder, "--check", "--inject", str(N)).stdout
        above = found["above_placebo"]
        assert above["low"] <= 0 <= above["high"]
        assert found["rose"]["value"] == 0.0
        assert found["rose"]["high"] > 0.1  # eighteen responses are no proof
        assert "is not shown; other lines may do it" in said

    def test_each_drawn_response_is_asked_about_once_with_either_line(
        self, project: Path, server: OpenAIServer
    ) -> None:
        injected(project)
        of: dict[str, list[str]] = {}
        for text in asked_about(server):
            of.setdefault(original(text), []).append(text.removeprefix(original(text)))
        known = {text for (text,) in rows_of(project, "SELECT text FROM responses")}
        assert set(of) <= known
        assert all(float(PLANTED.findall(text)[0]) <= 4 for text in of)
        lines = {line.format(top=5) for line in STYLES.values()}
        for both in of.values():
            assert PLACEBO in both and len(both) == 2
            assert len(lines & set(both)) == 1

    def test_no_score_and_no_map_is_written(self, project: Path) -> None:
        everything = "SELECT * FROM scores ORDER BY method, response_id"
        before, rows = table_counts(project), rows_of(project, everything)
        injected(project)
        after = table_counts(project)
        assert rows_of(project, everything) == rows
        grown = {name for name in after if after[name] != before[name]}
        assert grown == {"judge_calls", "judge_attempts"}
        assert after["judge_calls"] - before["judge_calls"] == 2 * N

    def test_the_route_records_nothing_even_when_told_to(self, project: Path) -> None:
        (method,) = {m for (m,) in rows_of(project, "SELECT method FROM scores")}
        injected(project)
        db = open_db(project / "annotator.db")
        judge = Judge("judge", method.split("@")[1].rsplit(":", 2)[0], "logprobs")
        route = PlantedRoute(db, judge, load_rubric(), N, 0)
        assert (route.method, route.n_drawn, route.n_calls()) == (method, N, 2 * N)
        before = rows_of(project, "SELECT * FROM scores ORDER BY response_id")
        assert route.record().n_scored == 0
        db.close()
        assert rows_of(project, "SELECT * FROM scores ORDER BY response_id") == before

    def test_the_seed_draws(self, project: Path, server: OpenAIServer) -> None:
        injected(project, n=3)
        first = {original(text) for text in asked_about(server)}
        graded(project, server, "--seed", "5")  # the seed is sent too: another judge
        injected(project, "--seed", "5", n=3)
        assert {original(text) for text in asked_about(server)} != first

    def test_more_than_there_are(self, project: Path, server: OpenAIServer) -> None:
        n_responses = rows_of(project, "SELECT count(*) FROM responses")[0][0]
        found = injected(project, n=1_000)
        assert found["injection"]["drawn"] == n_responses - 1
        assert any("not in 1,000: that is all" in note for note in found["notes"])
        assert server.ledger.count() == 2 * (n_responses - 1)

    def test_every_criterion_is_asked_about(self, project: Path, server: OpenAIServer) -> None:
        criteria = load_rubric("aspects").calls
        graded(project, server, "--rubric", "aspects")
        found = injected(project, "--rubric", "aspects", n=4)
        assert server.ledger.count() == 2 * 4 * len(criteria)
        assert found["injection"]["above_placebo"]["low"] > 0

    def test_samples_without_n_are_requests_of_their_own(
        self, project: Path, server: OpenAIServer
    ) -> None:
        asked = ("--uncertainty", "samples", "--samples", "3", "--model", "no-n")
        graded(project, server, *asked)
        found = injected(project, *asked, n=4)
        assert server.ledger.count() == 2 * 4 * 3
        assert found["injection"]["responses"] == 4

    def test_by_the_batch_api(self, project: Path, server: OpenAIServer) -> None:
        server.plan_batches([BatchPlan(by_poll=False)])
        begun = injected(project, "--mode", "batch", "--no-wait", code=3)
        assert begun["injection"] is None
        assert begun["asked"]["calls"]["in_batch"] == 2 * N
        for _ in range(4):
            server.advance()
        done = injected(project, "--mode", "batch", "--no-wait")
        assert done["injection"]["responses"] == N
        assert server.ledger.chats == []


class TestTheBill:
    def test_the_second_time_nothing_is_sent(self, project: Path, server: OpenAIServer) -> None:
        first = injected(project)
        assert first["asked"]["calls"]["sent"] == server.ledger.count() == 2 * N
        again = injected(project)
        assert server.ledger.count() == 2 * N
        assert again["asked"]["calls"]["cached"] == 2 * N
        assert again["injection"] == first["injection"]

    def test_a_dry_run_sends_nothing_and_foretells_calls_and_price(
        self, project: Path, server: OpenAIServer
    ) -> None:
        foretold = injected(project, "--dry-run")
        assert server.ledger.arrivals == []
        assert (foretold["n_to_ask"], foretold["n_answered"]) == (2 * N, 0)
        said = run(project, "--check", "--inject", str(N), "--dry-run").stdout
        assert f"{2 * N} of {2 * N} calls; 0 answered before" in said
        assert f"{N} responses with a harmless line and again with a planted one" in said
        assert re.search(r"about \$0\.\d+ for what is sent, at most \$0\.\d+ in all", said)
        cost = injected(project)["asked"]["calls"]["cost_usd"]
        assert cost == server.ledger.billed_microusd / 1e6
        assert 0.8 * foretold["about_cost"] <= cost <= foretold["most_cost"]
        assert injected(project, "--dry-run")["n_to_ask"] == 0

    def test_the_cap_is_kept_and_whole_pairs_are_left(
        self, project: Path, server: OpenAIServer
    ) -> None:
        spent = rows_of(project, "SELECT sum(cost_microusd) FROM judge_attempts")[0][0] / 1e6
        cap = spent + injected(project, "--dry-run")["about_cost"] * 0.7
        asked = ("--check", "--inject", str(N), "--concurrency", "1")
        result = run(project, *asked, "--max-cost", f"{cap:.6f}")
        assert result.exit_code == 3
        assert "kept back by the cap" in result.stdout
        assert "could pass the cap" in result.stderr and "raise --max-cost" in result.stderr
        assert "are not fully answered" in result.stdout
        assert server.ledger.billed_microusd <= (cap - spent) * 1e6
        texts = [original(text) for text in asked_about(server)]
        assert len(texts) > 2
        assert len(set(texts)) == -(-len(texts) // 2)
        assert injected(project)["injection"]["responses"] == N
        assert server.ledger.count() == 2 * N

    def test_missing_answers_are_said_left_out_and_asked_again(
        self, project: Path, server: OpenAIServer
    ) -> None:
        injected(project, "--dry-run")
        server.always(faults.html(), when=STYLES["naive"].strip().format(top=5))
        broken = injected(project, code=3)
        n_lost = N // len(STYLES)
        found = broken["injection"]
        assert (found["drawn"], found["responses"]) == (N, N - n_lost)
        assert "naive" not in found["by_style"]
        assert broken["asked"]["calls"]["parse_error"] == n_lost
        assert any(note.startswith(f"{n_lost} of the {N} resp") for note in broken["notes"])
        server.clear()
        sent = server.ledger.count()
        assert injected(project)["injection"]["responses"] == N
        assert server.ledger.count() == sent + n_lost

    def test_nothing_answered_is_no_measure(self, project: Path, server: OpenAIServer) -> None:
        server.always(faults.refusal())
        result = run(project, "--check", "--inject", "3")
        assert result.exit_code == 3
        assert "6 refused" in result.stdout and "is not asked again" in result.stderr
        assert "3 of the 3 responses with planted lines are not fully answered" in result.stdout
        assert "raised" not in result.stdout


class TestBesideTheRest:
    def test_nobody_has_to_have_voted(self, project: Path, tmp_path: Path) -> None:
        for name in ("check.html", "check.png"):
            result = run(project, "--check", "--inject", str(N), "--plot", str(tmp_path / name))
            assert result.exit_code == 0, result.output
        assert "people  nobody yet" in result.stdout
        assert "can talk this judge into a higher grade" in result.stdout
        assert "not held against people: nobody has voted yet" in result.stdout
        page = (tmp_path / "check.html").read_text(encoding="utf-8")
        assert page.count("<svg") == 1 and "Planted lines" in page
        assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")

    def test_votes_are_held_against_it_as_ever(self, project: Path, tmp_path: Path) -> None:
        vote(project)
        plain = json.loads(run(project, "--check", "--json").stdout)
        found = injected(project, "--plot", str(tmp_path / "check.html"))
        assert "injection" not in plain
        assert {key: found[key] for key in plain} == plain
        assert (found["pairs"]["wrong"], found["agreement"]["n"]) == (0, found["people"]["pairs"])
        page = (tmp_path / "check.html").read_text(encoding="utf-8")
        assert "Planted lines" in page and "Calibration" in page

    def test_a_judge_without_scores_has_nothing_to_rise_from(
        self, project: Path, server: OpenAIServer
    ) -> None:
        result = run(project, "--check", "--inject", "3", "--rubric", "aspects")
        assert result.exit_code == 1
        assert "no response has a score by judge:rubric:judge@" in result.stderr
        assert "on record: judge:rubric:judge@" in result.stderr
        assert "run `annotator judge` with the same options first" in result.stderr
        assert server.ledger.arrivals == []

    @pytest.mark.parametrize("route", ["pairwise", "reference", "reward-model", "peer", "data"])
    def test_it_is_for_judges_that_grade(
        self, project: Path, server: OpenAIServer, route: str
    ) -> None:
        result = run(project, "--check", "--inject", "3", "--route", route)
        assert result.exit_code == 2
        assert f"needs --route rubric, and the route is {route}" in result.stderr
        assert server.ledger.arrivals == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["FILE"], "FILE goes with --check"),
        (["--inject", "3"], "--inject goes with --check"),
        (["--plot", "x.png"], "--plot goes with --check"),
        (["--judges", "x"], "--judges goes with --check FILE"),
        (["--people", "x"], "--people goes with --check FILE"),
        (["--check", "--people", "x"], "--people goes with --check FILE"),
        (["--check", "--inject", "3", "FILE"], "--inject has no part in --check FILE"),
        (["--check", "--judges", "x", "--inject", "3"], "--judges goes with --check FILE"),
        (["--check", "FILE", "--model", "x"], "--model has no part in --check FILE"),
        (["--check", "FILE", "--scores", "x"], "--scores has no part in --check FILE"),
        (["--check", "FILE", "--project", "."], "--project has no part in --check FILE"),
        (["--check", "FILE", "--judges", ", "], "it names no score"),
        (["--check", "--limit", "3"], "--limit has no part in --check"),
        (["--check", "--dry-run"], "--dry-run has no part in --check"),
        (["--check", "--inject", "3", "--limit", "3"], "--limit does not go with --inject"),
        (["--check", "--inject", "3", "--scores", "judge"], "--scores does not go with --inject"),
        (["--check", "--inject", "3", "--dry-run", "--plot", "x.png"], "nothing to draw"),
        (["--check", "--inject", "0"], "0 is not in the range"),
        (["--check", "no-such-file.jsonl"], "does not exist"),
    ],
)
def test_what_has_no_part_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    labelled(tmp_path / "set.jsonl")
    given = ["set.jsonl" if one == "FILE" else one for one in arguments]
    result = CliRunner().invoke(main, ["judge", *given], catch_exceptions=False)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


# Labelled files.


def labelled(path: Path) -> Path:
    """Two pairs; llm:x is right on both, llm:y on the first; people scored as llm:y did."""
    scores = [
        [{"llm:x": 5, "llm:y": 3, "human:1": 3}, {"llm:x": 1, "llm:y": 2, "human:1": 2}],
        [{"llm:x": 2, "llm:y": 5, "human:1": 5}, {"llm:x": 4, "llm:y": 4.5, "human:1": 4}],
    ]
    rows = [
        {
            "prompt": f"p{i}",
            "responses": [
                {"id": str(j), "text": "word " * (3 + 4 * j + i), "scores": given}
                for j, given in enumerate(both)
            ],
            "comparisons": [{"a": "0", "b": "1", "label": "ab"[i], "kind": "human"}],
        }
        for i, both in enumerate(scores)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class TestFiles:
    @pytest.fixture(autouse=True)
    def no_project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A project is not needed, and one that is named by the environment not looked at."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("ANNOTATOR_PROJECT", str(tmp_path / "nowhere"))
        labelled(tmp_path / "set.jsonl")

    def check(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(
            main, ["judge", "--check", "set.jsonl", *arguments], catch_exceptions=False
        )
        assert result.exit_code == code, result.output
        return result

    def document(self, *arguments: str) -> Any:
        return json.loads(self.check("--json", *arguments).stdout)

    def test_all_judges_of_models_against_the_labels(self) -> None:
        found = self.document()
        assert found["judges"] == ["llm:x", "llm:y"]
        # Mean gaps: (4 + 1) / 2 for a, which people prefer; (-2 + .5) / 2 for b, which they prefer.
        assert found["agreement"]["value"] == 1.0
        each = {one["name"]: one["agreement"]["value"] for one in found["each_judge"]}
        assert each == {"llm:x": 1.0, "llm:y": 0.5}
        assert "injection" not in found

    def test_judges_are_chosen_by_name_and_pattern(self) -> None:
        assert self.document("--judges", "llm:y")["agreement"]["value"] == 0.5
        assert self.document("--judges", " llm:x, *:y")["judges"] == ["llm:x", "llm:y"]
        assert self.document("--judges", "*")["judges"] == ["human:1", "llm:x", "llm:y"]

    def test_people_may_have_scored(self) -> None:
        found = self.document("--judges", "llm:y", "--people", "human:*")
        assert found["agreement"]["value"] == 1.0
        assert found["people"]["words"] == "scores human:1"

    def test_in_words_and_drawn(self, tmp_path: Path) -> None:
        for name in ("check.png", "check.html"):
            said = self.check("--plot", name).stdout
        assert said.startswith("judge   the mean of llm:x, llm:y\npeople  2 labels of the kind")
        assert "intervals from fewer than 10 are too narrow" in said
        assert "flips" not in said
        assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "check.html").read_text(encoding="utf-8")

    def test_errors_say_what_there_is(self) -> None:
        assert "llm:x, llm:y" in self.check("--judges", "rm:*", code=1).stderr
        assert "human:1" in self.check("--people", "people:*", code=1).stderr


def test_what_a_harmless_line_raises_by_hand() -> None:
    """Of four that have a grade before and with it, one rose by a grade; one of them fell."""
    before = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 2.0])
    placebo = np.array([2.0, 2.9, 1.0, 4.0, 5.0, np.nan])
    draw = np.random.default_rng(0)
    found = rise(before, before, np.array([0, 0, 1, 2, 3, 3]), draw, placebo=placebo)
    assert found.rose_by_placebo is not None
    assert (found.rose_by_placebo.value, found.rose_by_placebo.n) == (0.25, 4)
    assert rise(before, before, np.arange(6), draw).rose_by_placebo is None
