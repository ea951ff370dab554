"""The demo: its sample, its simulated annotators, and the whole tour on a real server."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlite_utils import Database

from annotator.candidates.ingest import import_files
from annotator.demo.robots import NOISE, RATIONALE, SCORE_NAME, answer_all, simulated_grade
from annotator.demo.tour import BATCH, ROBOTS, run_tour
from annotator.doctor import broken_invariants
from annotator.export.write import export_file
from annotator.store import open_db
from annotator.studio.local import LocalStudio
from annotator.studio.screen import SCREEN_GRADES
from tests.studio_server import RealStudio

SAMPLE = files("annotator.demo") / "candidates.jsonl"
MIRRORED = dict(zip(SCREEN_GRADES, reversed(SCREEN_GRADES), strict=True)) | {
    "tie": "tie", "both_bad": "both_bad",
}  # fmt: skip

qualities = st.floats(0, 1)


class Steady(np.random.Generator):
    """Judges without noise."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def normal(self, *_: Any, **__: Any) -> float:  # type: ignore[override]
        return 0.0


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]


# The sample


def test_the_sample_is_large_enough_and_each_response_has_a_quality() -> None:
    sample = rows()
    assert len(sample) >= 60
    assert len({row["id"] for row in sample}) == len(sample)
    assert sum(isinstance(row["prompt"], list) for row in sample) >= 2
    for row in sample:
        responses = row["responses"]
        assert len(responses) == 4
        assert len({response["text"].strip() for response in responses}) == 4
        assert all(response["text"].strip() and response["model"] for response in responses)
        assert all(0 <= response["scores"][SCORE_NAME] <= 1 for response in responses)


def test_quality_does_not_go_with_the_place_or_with_the_length() -> None:
    """Otherwise the demo would reward an annotator who reads nothing."""
    scored = [[r["scores"][SCORE_NAME] for r in row["responses"]] for row in rows()]
    by_place = np.mean(scored, axis=0)
    assert np.ptp(by_place) < 0.15
    lengths = [[len(r["text"]) for r in row["responses"]] for row in rows()]
    longest_wins = np.mean(np.argmax(scored, axis=1) == np.argmax(lengths, axis=1))
    assert longest_wins < 0.75


def test_the_sample_is_imported_whole(db: Database) -> None:
    report = import_files(db, [Path(str(SAMPLE))], dataset="demo")
    assert report.total.complete
    assert report.prompts_added == len(rows())
    assert report.responses_added == 4 * len(rows())


# The simulated annotators


@given(qualities, qualities, st.integers(0, 2**32))
def test_a_simulated_grade_is_one_of_the_screen(left: float, right: float, seed: int) -> None:
    assert simulated_grade(left, right, np.random.default_rng(seed)) in SCREEN_GRADES


@given(qualities, qualities)
def test_sides_changed_the_grade_is_mirrored(left: float, right: float) -> None:
    grade = simulated_grade(left, right, Steady())
    assert simulated_grade(right, left, Steady()) == MIRRORED[grade]


@pytest.mark.parametrize(
    ("left", "right", "grade"),
    [
        (0.9, 0.1, "left_much_better"),
        (0.5, 0.7, "right_better"),
        (0.7, 0.5, "left_better"),
        (0.2, 0.8, "right_much_better"),
        (0.6, 0.62, "tie"),
        (0.1, 0.15, "both_bad"),
        (0.1, 0.25, "right_better"),
    ],
)
def test_without_noise_the_grade_follows_the_qualities(
    left: float, right: float, grade: str
) -> None:
    assert simulated_grade(left, right, Steady()) == grade


def test_with_noise_the_better_one_wins_as_often_as_the_noise_says() -> None:
    """0.7 against 0.5: the lead is normal with mean 0.2 and deviation NOISE times root two."""
    rng = np.random.default_rng(1)
    n = 20_000
    counts = Counter(simulated_grade(0.7, 0.5, rng) for _ in range(n))
    wrong = (counts["right_better"] + counts["right_much_better"]) / n
    draw = np.random.default_rng(2).normal(0.2, NOISE * 2**0.5, 400_000)
    expected = np.mean(draw < -0.06)
    assert abs(wrong - expected) < 5 * np.sqrt(expected / n)
    assert 0.03 < wrong < 0.1


def test_robots_take_turns_and_say_what_they_are() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.answers: list[tuple[int, Any]] = []

        def submit(self, task_id: int, result: Any) -> None:
            self.answers.append((task_id, result))

    robots: list[Any] = [Recorder(), Recorder()]
    tasks = [(100 + i, 0.9, 0.2) for i in range(5)]
    assert answer_all(robots, tasks, Steady()) == 5
    assert [[task for task, _ in robot.answers] for robot in robots] == [
        [100, 102, 104],
        [101, 103],
    ]
    for robot in robots:
        for _, result in robot.answers:
            said = {one["from_name"]: one["value"] for one in result}
            assert said["rationale"] == {"text": [RATIONALE]}
            assert said["preference"] == {"choices": ["left_much_better"]}
    assert "simulated" in RATIONALE and "no person" in RATIONALE


# The tour


@pytest.fixture
def local(real_studio: RealStudio, monkeypatch: pytest.MonkeyPatch) -> LocalStudio:
    """The session's server as `annotator studio up` would find it: running already."""
    if real_studio.home is None:
        pytest.skip("the tour starts a local server; this one was named by the environment")
    monkeypatch.setenv("ANNOTATOR_STUDIO_HOME", str(real_studio.home))
    monkeypatch.setenv("ANNOTATOR_STUDIO_ENV", str(real_studio.environment))
    return LocalStudio()


def simulated_votes(db: Database) -> list[dict[str, Any]]:
    query = """SELECT p.round_id, v.rationale, v.status, a.name FROM current_votes v
        JOIN picks p ON p.id = v.pick_id JOIN annotators a ON a.id = v.annotator_id"""
    return list(db.query(query))


@pytest.mark.studio
def test_two_rounds_are_played_and_the_third_waits(tmp_path: Path, local: LocalStudio) -> None:
    folder = tmp_path / "demo"
    told: list[str] = []
    tour = run_tour(folder, play=True, say=told.append)
    assert (tour.rounds, tour.votes_simulated, tour.waiting) == (3, 2 * BATCH, BATCH)
    assert tour.label_at.startswith(tour.running.url)
    running = local.running()
    assert running is not None and running.url == tour.running.url
    assert sum("SIMULATED" in line for line in told) == 2

    db = open_db(folder / "annotator.db")
    votes = simulated_votes(db)
    assert Counter(vote["round_id"] for vote in votes) == {1: BATCH, 2: BATCH}
    assert {(vote["status"], vote["rationale"]) for vote in votes} == {("vote", RATIONALE)}
    assert Counter(vote["name"].split("@")[0] for vote in votes) == dict.fromkeys(ROBOTS, BATCH)
    assert len(set(db.execute("SELECT pair_key FROM picks").fetchall())) == 3 * BATCH
    assert broken_invariants(db) == []
    export_file(db, "votes", folder / "votes.jsonl")
    exported = (folder / "votes.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(exported) == 2 * BATCH
    assert all(RATIONALE in line for line in exported)
    before = {name: db[name].count for name in db.table_names()}

    again = run_tour(folder, play=True, say=told.append)
    assert (again.rounds, again.votes_simulated, again.waiting) == (3, 0, BATCH)
    after = {name: db[name].count for name in db.table_names()}
    assert after | {"imports": 0} == before | {"imports": 0}
    assert again.running.pid == tour.running.pid
    db.close()
