"""Four people label on a real Label Studio: one careful, one careless, one always on the left, one
who changes their mind. What is believed, who is named, and what is asked next follow from that."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from annotator.cli import main
from annotator.config import template
from annotator.labels.consensus import majority
from annotator.labels.consensus_store import pair_beliefs
from annotator.store import open_db
from annotator.studio.client import Studio
from annotator.studio.screen import LEFT, RIGHT, SCREEN_GRADES, answer_result
from tests.pushed_world import remove_projects
from tests.studio_server import Account, RealStudio, invited

pytestmark = [pytest.mark.studio, pytest.mark.timeout(900)]
CAREFUL, CARELESS, LEFTY, REVISER = "careful", "careless", "lefty", "reviser"


def quality(text: str) -> int:
    """The truth stands in the text: so many of the ten steps are right."""
    found = re.search(r"(\d+) of 10", text)
    assert found, text
    return int(found.group(1))


def write_rows(path: Path, name: str, n_prompts: int, qualities: tuple[int, ...]) -> Path:
    """Native JSON lines; with two responses each a gold label for the better one."""
    rows = []
    for i in range(n_prompts):
        its = [1 + (quality + 3 * i) % 10 for quality in qualities]
        row: dict[str, Any] = {
            "id": f"{name}{i}",
            "prompt": f"{name} task {i}: describe the way to house number {17 * i + 3}.",
            "responses": [
                {"id": str(j), "text": f"Go {'on ' * j}by road {i}. {q} of 10 steps are right."}
                for j, q in enumerate(its)
            ],
        }
        if len(its) == 2:
            label = "a" if its[0] > its[1] else "b"
            row["comparisons"] = [
                {"a": "0", "b": "1", "label": label, "kind": "objective", "annotator": "us"}
            ]
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@dataclass
class Person:
    """Somebody with an account, who answers what the label stream offers."""

    habit: str
    url: str
    account: Account
    rng: np.random.Generator
    answered: list[int] = field(default_factory=list)  # tasks
    annotations: dict[int, int] = field(default_factory=dict)  # of each task

    def request(self, method: str, place: str, **body: Any) -> httpx.Response:
        """What the server says to this person."""
        return httpx.request(
            method,
            f"{self.url}{place}",
            headers={"Authorization": f"Token {self.account.token}"},
            json=body or None,
            timeout=60,
            trust_env=False,
        )

    def next_task(self, project: int) -> dict[str, Any] | None:
        """The task that the stream offers; None at its end."""
        offered = self.request("GET", f"/api/projects/{project}/next")
        if offered.status_code == 404:
            return None
        task: dict[str, Any] = offered.raise_for_status().json()
        return task

    def says(self, task: dict[str, Any]) -> str:
        """The grade, in the frame of the screen, by this person's habit."""
        left, right = (quality(task["data"][side]) for side in (LEFT, RIGHT))
        if self.habit == LEFTY:
            return "left_better"
        if self.habit == CARELESS:
            return str(self.rng.choice(SCREEN_GRADES))
        if self.habit == REVISER and len(self.answered) < 3:
            left, right = right, left  # and will see it
        if left == right:
            return "tie"
        side = "left" if left > right else "right"
        return f"{side}_much_better" if abs(left - right) > 4 else f"{side}_better"

    def answer(self, project: int) -> bool:
        """Answers one task; False at the end of the stream."""
        task = self.next_task(project)
        if task is None:
            return False
        assert task["id"] not in self.answered, "nobody is asked twice about a task"
        grade = self.says(task)
        made = self.request(
            "POST",
            f"/api/tasks/{task['id']}/annotations/",
            result=answer_result(grade),
            lead_time=float(self.rng.uniform(8, 20)),
        )
        self.annotations[task["id"]] = made.raise_for_status().json()["id"]
        self.answered.append(task["id"])
        return True

    def revise(self) -> None:
        """Puts the first three answers right, and takes two later ones back."""
        for task_id in self.answered[:3]:
            task = self.request("GET", f"/api/tasks/{task_id}/").raise_for_status().json()
            place = f"/api/annotations/{self.annotations[task_id]}/"
            self.request("PATCH", place, result=answer_result(self.says(task))).raise_for_status()
        for task_id in self.answered[3:5]:
            self.request("DELETE", f"/api/annotations/{self.annotations[task_id]}/")
            self.answered.remove(task_id)  # whoever took an answer back may be asked again


class World:
    """A project with gold, four people, and the commands."""

    flags: ClassVar = ["--strategy", "random", "--overlap", "2-4", "--gold-share", "0.2"]

    def __init__(self, real: RealStudio, folder: Path) -> None:
        self.folder, self.real = folder, real
        (folder / "annotator.toml").write_text(template("four people"), encoding="utf-8")
        open_db(folder / "annotator.db", create=True).close()
        self.people = {
            habit: Person(
                habit, real.url, invited(real.url, real.token, habit), np.random.default_rng(i)
            )
            for i, habit in enumerate((CAREFUL, CARELESS, LEFTY, REVISER))
        }

    def run(self, *arguments: str) -> Any:
        """The JSON of a command that is done."""
        environment = {
            "LABEL_STUDIO_URL": self.real.url,
            "LABEL_STUDIO_API_KEY": self.real.token,
        }
        command = [*arguments, "--json", "--project", str(self.folder)]
        result = CliRunner().invoke(main, command, env=environment, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The answer to a query on the project's database."""
        db = open_db(self.folder / "annotator.db")
        try:
            return list(db.execute(query).fetchall())
        finally:
            db.close()

    @property
    def project(self) -> int:
        """Its id on the server."""
        ((found,),) = self.rows("SELECT studio_id FROM projects")
        return int(found)

    def everybody_answers(self) -> int:
        """In turn, until the stream has nothing for anybody; how many answers there were."""
        done, n = set[str](), 0
        for habit in cycle(self.people):
            if len(done) == len(self.people):
                return n
            if habit not in done:
                answered = self.people[habit].answer(self.project)
                n += answered
                done |= set() if answered else {habit}
        raise AssertionError

    def sided_right(self) -> tuple[float, float]:
        """Shares of the asked pairs, gold aside, on whose better response the crowd, and the
        majority of their votes, agree; undecided counts half."""
        db = open_db(self.folder / "annotator.db")
        try:
            texts = dict(db.execute("SELECT id, text FROM responses").fetchall())
            known = pair_beliefs(db)
            grades: dict[tuple[int, int], list[str]] = {}
            for a, b, grade in db.execute(
                """SELECT p.a_id, p.b_id, v.grade FROM current_votes v
                JOIN picks p ON p.id = v.pick_id WHERE v.status = 'vote' AND p.arm <> 'gold'"""
            ):
                grades.setdefault((a, b), []).append(grade)
        finally:
            db.close()
        crowd, plain = [], []
        ends = zip(known.a_ids.tolist(), known.b_ids.tolist(), strict=True)
        for (a, b), preferred in zip(ends, known.preferred.tolist(), strict=True):
            if (a, b) not in grades or quality(texts[a]) == quality(texts[b]):
                continue
            better = 1 if quality(texts[a]) > quality(texts[b]) else -1
            crowd.append(0.5 + 0.5 * better * np.sign(preferred - 0.5))
            side = {"a": 1, "b": -1}.get(majority(grades[a, b]).verdict, 0)
            plain.append(0.5 + 0.5 * better * side)
        return float(np.mean(crowd)), float(np.mean(plain))

    def remove(self) -> None:
        """Clears the server."""
        db = open_db(self.folder / "annotator.db")
        try:
            with Studio(self.real.url, self.real.token) as studio:
                remove_projects(db, studio)
        finally:
            db.close()


@pytest.fixture
def world(real_studio: RealStudio, tmp_path: Path) -> Iterator[World]:
    made = World(real_studio, tmp_path)
    try:
        yield made
    finally:
        made.remove()


def test_four_people_from_the_first_batch_to_the_next(world: World) -> None:
    candidates = write_rows(world.folder / "candidates.jsonl", "c", 15, (0, 3, 6, 8))
    world.run("import", str(candidates))
    gold = write_rows(world.folder / "gold.jsonl", "g", 10, (1, 8))

    batch = world.run("next-batch", "-n", "44", "--seed", "3", "--gold", str(gold), *world.flags)
    n_gold = world.rows("SELECT count(*) FROM picks WHERE arm = 'gold'")[0][0]
    assert n_gold == 9 and batch["votes_asked"] == 2 * (44 + n_gold)
    assert world.everybody_answers() == 2 * (44 + n_gold)
    world.people[REVISER].revise()

    report = world.run("sync")
    assert (report["new"]["votes"], report["total"]["votes"]) == (104, 104)  # two were taken back
    assert report["new"]["rejected"] == 0

    people = {one["name"].split("-")[0]: one for one in world.run("annotators")["people"]}
    alarms = {habit: {alarm["kind"] for alarm in people[habit]["alarms"]} for habit in people}
    assert "left" in alarms[LEFTY]
    assert alarms[CAREFUL] == alarms[REVISER] == set()
    skill = {habit: people[habit]["skill"] for habit in people}
    assert max(skill[CARELESS]["high"], skill[LEFTY]["high"]) < 0.7
    assert min(skill[CAREFUL]["value"], skill[REVISER]["value"]) > 0.8
    assert "skill" in alarms[CARELESS] and "skill" in alarms[LEFTY]
    crowd, plain = world.sided_right()
    assert crowd > 0.9 and crowd > plain

    lacking = {
        pick
        for (pick,) in world.rows(
            """SELECT pick_id FROM current_votes GROUP BY pick_id HAVING count(*) = 1"""
        )
    }
    assert len(lacking) == 2  # the server asks for these again by itself
    second = world.run("next-batch", "-n", "20", "--seed", "4", *world.flags)
    extra = second["further_votes"]
    control = {pick for (pick,) in world.rows("SELECT id FROM picks WHERE arm <> 'acquired'")}
    assert extra, "pairs on which a careless vote met a careful one want another"
    assert not {one["pick_id"] for one in extra} & (control | lacking)
    assert all(one["overlap"] == 3 and one["n_votes"] == 2 for one in extra)
    by_pick = dict(world.rows("SELECT pick_id, count(*) FROM current_votes GROUP BY pick_id"))
    gains = [one["gain"] for one in extra]
    assert gains == sorted(gains, reverse=True) and gains[-1] > 0.0

    n_second = world.everybody_answers()
    assert n_second == second["votes_asked"] + len(lacking)
    world.run("sync")
    votes = Counter(
        dict(world.rows("SELECT pick_id, count(*) FROM current_votes GROUP BY pick_id"))
    )
    for one in extra:
        assert votes[one["pick_id"]] == by_pick[one["pick_id"]] + 1 == 3
    assert all(votes[pick] == 2 for pick in control | lacking)
    after, _ = world.sided_right()
    assert after > 0.9
    people = {one["name"].split("-")[0]: one for one in world.run("annotators")["people"]}
    assert "left" in {alarm["kind"] for alarm in people[LEFTY]["alarms"]}
    assert people[CAREFUL]["alarms"] == people[REVISER]["alarms"] == []
