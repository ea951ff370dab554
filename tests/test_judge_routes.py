"""What routes ask and what they make of the answers, over real sockets and in a real database."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlite_utils import Database

from annotator.candidates.catalog import response_table
from annotator.candidates.identity import Message
from annotator.signals.embeddings import embed_missing
from annotator.signals.judges import reference_route, routes
from annotator.signals.judges.client import ClientSettings, host_of
from annotator.signals.judges.forecast import forecast
from annotator.signals.judges.grades import Unparsable
from annotator.signals.judges.pairwise_route import PairwiseRoute
from annotator.signals.judges.prices import Price
from annotator.signals.judges.reference_route import Cosine, ReferenceRoute, RougeL
from annotator.signals.judges.routes import Judge, Route, prompts_with_responses
from annotator.signals.judges.rubric import Rubric, load_pair_rubric, load_rubric
from annotator.signals.judges.rubric_route import RubricRoute
from annotator.signals.judges.runner import RunReport, RunSettings, run_calls
from annotator.signals.scores import judge_methods, method_in_words, scores_by
from tests.fake_encoder import FakeEncoder
from tests.openai_server import Distribution, OpenAIServer, brains, faults, serving
from tests.small_world import add_prompt

SIZES = (3, 1, 4, 2, 5)
FAST = {"pause": 0.01, "retries": 1, "concurrency": 4}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serving() as running:
        yield running


def planted(i: int, j: int) -> float:
    """The grade of answer j to question i, no two alike."""
    return round(1.3 + (7 * i + 11 * j) % 17 / 5, 2)


def response(i: int, j: int) -> str:
    return f"Answer {j} to question {i}. [[grade {planted(i, j)}]]"


@pytest.fixture
def world(db: Database) -> Database:
    for i, k in enumerate(SIZES):
        add_prompt(db, [user(f"Question {i}?")], [response(i, j) for j in range(k)])
    # Ids in another order than keys, as an import of several files leaves them.
    db.execute("UPDATE responses SET id = 1000 - id")
    return db


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def judge_at(server: OpenAIServer, how: str = "logprobs", **more: Any) -> Judge:
    return Judge(**({"model": "judge", "host": host_of(server.url), "how": how} | more))


def ask(
    db: Database, route: Route, server: OpenAIServer, limit: int | None = None, **more: Any
) -> RunReport:
    path = Path(db.execute("PRAGMA database_list").fetchone()[2])
    where = ClientSettings(server.url, server.key)
    settings = RunSettings(**{**FAST, **more})
    return run_calls(db, path, route.requests(limit), where, settings, route.check)


def texts(db: Database) -> list[str]:
    """Of all responses, in the order of response_table."""
    query = "SELECT text FROM responses ORDER BY prompt_id, response_key"
    return [text for (text,) in db.execute(query)]


def grades_planted(db: Database, name: str = "grade") -> list[float]:
    return [float(re.findall(rf"\[\[{name} ([\d.]+)\]\]", text)[-1]) for text in texts(db)]


def recorded(db: Database, method: str) -> list[float]:
    return scores_by(db, method, response_table(db).response_ids).tolist()


def variances(db: Database, method: str) -> list[float | None]:
    query = """SELECT s.judge_variance FROM responses r LEFT JOIN scores s
        ON s.response_id = r.id AND s.method = ? ORDER BY r.prompt_id, r.response_key"""
    return [variance for (variance,) in db.execute(query, [method])]


class TestWalk:
    @pytest.mark.parametrize("block", [1, 4, 100])
    def test_every_response_once_with_its_prompt(
        self, world: Database, monkeypatch: pytest.MonkeyPatch, block: int
    ) -> None:
        monkeypatch.setattr(routes, "BLOCK_RESPONSES", block)
        found = list(prompts_with_responses(world))
        assert [len(prompt.responses) for prompt in found] == list(SIZES)
        for i, prompt in enumerate(found):
            assert prompt.messages == (("user", f"Question {i}?"),)
            assert sorted(prompt.responses) == [response(i, j) for j in range(SIZES[i])]
        walked = [i for prompt in found for i in prompt.response_ids]
        assert walked == response_table(world).response_ids.tolist()

    @pytest.mark.parametrize("limit", [1, 3, 4, 5, 15, 99])
    def test_a_limit_counts_responses(self, world: Database, limit: int) -> None:
        first = [i for p in prompts_with_responses(world, limit) for i in p.response_ids]
        assert first == response_table(world).response_ids[:limit].tolist()

    def test_no_candidates(self, db: Database) -> None:
        assert list(prompts_with_responses(db)) == []

    def test_texts_are_read_as_they_are_needed(
        self, world: Database, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(routes, "BLOCK_RESPONSES", 2)
        shown: list[int] = []
        read = routes.shown_responses

        def counting(db: Database, ids: list[int]) -> Any:
            shown.extend(ids)
            return read(db, ids)

        monkeypatch.setattr(routes, "shown_responses", counting)
        requests = RubricRoute(world, judge_at(server), load_rubric()).requests()
        next(requests)
        assert len(shown) == SIZES[0]


class TestRubric:
    def test_planted_grades_come_back_with_the_judges_doubt(
        self, world: Database, server: OpenAIServer
    ) -> None:
        route = RubricRoute(world, judge_at(server), load_rubric())
        report = ask(world, route, server)
        done = route.record()
        assert (report.ok, done.n_scored, done.n_unscored) == (sum(SIZES), sum(SIZES), 0)
        assert route.n_calls() == server.ledger.count() == sum(SIZES)
        grades = grades_planted(world)
        assert recorded(world, done.method) == pytest.approx(grades, abs=1e-6)
        doubts = [Distribution.around(grade).variance for grade in grades]
        assert variances(world, done.method) == pytest.approx(doubts, abs=1e-6)
        words = f"rubric helpful-v1 by judge at {host_of(server.url)}, from log-probs"
        assert method_in_words(done.method, None) == words

    def test_the_same_run_again_asks_nothing(self, world: Database, server: OpenAIServer) -> None:
        route = RubricRoute(world, judge_at(server), load_rubric())
        ask(world, route, server)
        first = route.record()
        server.ledger.clear()
        again = RubricRoute(world, judge_at(server), load_rubric())
        report = ask(world, again, server)
        assert (report.sent, report.cached) == (0, sum(SIZES))
        assert server.ledger.count() == 0
        assert again.record() == first
        assert judge_methods(world) == [first.method]

    def test_what_determines_a_score_is_in_the_method(
        self, world: Database, server: OpenAIServer, tmp_path: Path
    ) -> None:
        text = Path(routes.__file__).with_name("rubrics").joinpath("helpful.toml").read_text()
        (tmp_path / "own.toml").write_text(text.replace("careful and impartial", "strict"))
        assert "strict" in (tmp_path / "own.toml").read_text()
        judge = judge_at(server)
        ways = [
            (judge, load_rubric()),
            (judge, load_rubric(tmp_path / "own.toml")),
            (judge, load_rubric("aspects")),
            (judge_at(server, json_schema=False), load_rubric("aspects")),
            (judge_at(server, model="other"), load_rubric()),
            (judge_at(server, host="elsewhere/v1"), load_rubric()),
            (judge_at(server, how="integer"), load_rubric()),
            (judge_at(server, how="samples", samples=4), load_rubric()),
            (judge_at(server, how="samples", samples=5), load_rubric()),
            (judge_at(server, how="samples", samples=5, n=False), load_rubric()),
            (judge_at(server, seed=1), load_rubric()),
            (judge_at(server, thinking=99), load_rubric()),
        ]
        methods = {RubricRoute(world, *way).method for way in ways}
        assert len(methods) == len(ways)
        assert RubricRoute(world, judge, load_rubric()).method in methods

    @pytest.mark.parametrize(
        ("how", "samples", "reading", "words"),
        [
            ("logprobs", 1, "logprobs", "from log-probs"),
            ("samples", 8, "samples-8", "from 8 samples"),
            ("samples", 16, "samples-16", "from 16 samples"),
            ("integer", 1, "integer", "as written"),
        ],
    )
    def test_a_method_says_how_answers_are_read(
        self, world: Database, how: str, samples: int, reading: str, words: str
    ) -> None:
        judge = Judge("a:b@c", "h:1/v1", how, samples)
        method = RubricRoute(world, judge, load_rubric()).method
        named = re.fullmatch(r"judge:rubric:a:b@c@h:1/v1:helpful-v1-(.+):[0-9a-f]{8}", method)
        assert named is not None and named[1] == reading
        said = method_in_words(method, None)
        assert said == f"rubric helpful-v1 by a:b@c at h:1/v1, {words}"
        of_pairs = pairwise(world, judge).method
        assert f"-{reading}:" in of_pairs and method_in_words(of_pairs, None).endswith(words)

    def test_an_answer_that_cannot_be_read_is_no_score(
        self, world: Database, server: OpenAIServer
    ) -> None:
        bad, declined = response(2, 1), response(4, 0)
        server.always(faults.grades("11"), when=bad)
        server.always(faults.refusal(), when=declined)
        route = RubricRoute(world, judge_at(server), load_rubric())
        report = ask(world, route, server)
        assert (report.parse_error, report.refused) == (1, 1)
        done = route.record()
        assert (done.n_scored, done.n_unscored) == (sum(SIZES) - 2, 2)
        places = [texts(world).index(text) for text in (bad, declined)]
        found = recorded(world, done.method)
        assert [place for place, score in enumerate(found) if np.isnan(score)] == sorted(places)
        assert world.execute("SELECT count(*) FROM scores").fetchone() == (sum(SIZES) - 2,)

        server.clear()
        server.ledger.clear()
        assert ask(world, route, server).ok == 1
        assert bad in json.dumps(server.ledger.chats[0].body) and server.ledger.count() == 1
        found = recorded(world, route.record().method)
        assert found[places[0]] == pytest.approx(planted(2, 1), abs=1e-6)
        assert np.isnan(found[places[1]])

    def test_a_part_first_then_the_rest(self, world: Database, server: OpenAIServer) -> None:
        route = RubricRoute(world, judge_at(server), load_rubric())
        assert route.n_calls(4) == ask(world, route, server, limit=4).sent == 4
        part = route.record()
        assert np.flatnonzero(~np.isnan(recorded(world, part.method))).tolist() == [0, 1, 2, 3]
        assert ask(world, route, server).sent == sum(SIZES) - 4
        # A part asked for after the whole takes nothing away.
        ask(world, route, server, limit=2)
        assert route.record().n_scored == sum(SIZES)


TWO_CRITERIA = """
kind = "pointwise"
id = "two"
version = 3
calls = "{calls}"
combine = ["facts", "style"]
role = "You grade."
[scale]
low = 1
high = 5
""" + "".join(
    f"""
[[criteria]]
name = "{name}"
asks = "How good is the {name}?"
[criteria.anchors]
1 = "bad"
2 = "poor"
3 = "fair"
4 = "good"
5 = "best"
"""
    for name in ("facts", "style")
)


def two_criteria(folder: Path, calls: str) -> Rubric:
    path = folder / f"{calls}.toml"
    path.write_text(TWO_CRITERIA.format(calls=calls))
    return load_rubric(path)


def by_criterion(messages: Any, params: Any) -> Any:
    """A judge that grades by the one criterion it was asked about, or by all in one object."""
    asked = re.findall(r"Criterion (\w+):", brains.text_of(messages[0]))
    text = brains.text_of(messages[-1])
    grades = {name: Distribution.around(brains.quality(text, name=name)) for name in asked}
    return grades if len(asked) > 1 else grades[asked[0]]


class TestSeveralCriteria:
    @pytest.fixture
    def world(self, db: Database) -> Database:
        for i in range(3):
            texts = [f"{j} [[facts {1.5 + j + i / 4}]] [[style {4.5 - j}]]" for j in range(3)]
            add_prompt(db, [user(f"Question {i}?")], texts)
        return db

    @pytest.mark.parametrize(("calls", "n_calls"), [("each", 18), ("one", 9)])
    @pytest.mark.parametrize("json_schema", [True, False])
    def test_the_score_is_the_mean_of_both(
        self, world: Database, tmp_path: Path, calls: str, n_calls: int, json_schema: bool
    ) -> None:
        with serving(brain=by_criterion) as server:
            judge = judge_at(server, json_schema=json_schema)
            route = RubricRoute(world, judge, two_criteria(tmp_path, calls))
            assert ask(world, route, server).ok == route.n_calls() == n_calls
            asked = [arrival.body.get("response_format") for arrival in server.ledger.chats]
        assert all(asked) if calls == "one" and json_schema else not any(asked)
        done = route.record()
        facts, style = (np.array(grades_planted(world, name)) for name in ("facts", "style"))
        assert recorded(world, done.method) == pytest.approx(((facts + style) / 2), abs=1e-6)
        doubts = [
            (Distribution.around(f).variance + Distribution.around(s).variance) / 4
            for f, s in zip(facts, style, strict=True)
        ]
        assert variances(world, done.method) == pytest.approx(doubts, abs=1e-6)

    def test_one_criterion_that_fails_leaves_no_score(
        self, world: Database, tmp_path: Path
    ) -> None:
        third = texts(world)[2]
        with serving(brain=by_criterion) as server:
            route = RubricRoute(world, judge_at(server), two_criteria(tmp_path, "each"))

            def third_style(body: dict[str, Any]) -> bool:
                text = json.dumps(body)
                return "Criterion style" in text and third in text

            server.always(faults.says("I would rather not say."), when=third_style)
            assert ask(world, route, server).parse_error == 1
        done = route.record()
        assert np.flatnonzero(np.isnan(recorded(world, done.method))).tolist() == [2]


class TestSamples:
    @pytest.mark.parametrize("with_n", [True, False])
    def test_mean_and_variance_of_the_samples(
        self, world: Database, server: OpenAIServer, with_n: bool
    ) -> None:
        model = "judge" if with_n else "no-n"
        judge = judge_at(server, "samples", model=model, samples=5, n=with_n, seed=40)
        route = RubricRoute(world, judge, load_rubric())
        report = ask(world, route, server)
        assert report.ok == route.n_calls() == sum(SIZES) * (1 if with_n else 5)
        seeds = {arrival.body["seed"] for arrival in server.ledger.chats}
        assert seeds == ({40} if with_n else {40, 41, 42, 43, 44})
        assert all(arrival.body["temperature"] == 1 for arrival in server.ledger.chats)
        done = route.record()
        drawn = self.drawn(world, route)
        assert [len(grades) for grades in drawn] == [5] * sum(SIZES)
        means, spreads = np.mean(drawn, axis=1), np.var(drawn, axis=1, ddof=1)
        assert recorded(world, done.method) == pytest.approx(means)
        assert variances(world, done.method) == pytest.approx(spreads)
        assert spreads.max() > 0

    @staticmethod
    def drawn(db: Database, route: RubricRoute) -> list[list[int]]:
        """Read from the answers as they came, by the text that stands in each call's place."""
        stored = dict(db.execute("SELECT call_key, reply FROM judge_calls").fetchall())
        grades: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for request in route.requests():
            reply = json.loads(stored[request.key(route._judge.host)])
            of_text = grades.setdefault(request.messages, [])
            of_text += [int(choice["message"]["content"]) for choice in reply["choices"]]
        return list(grades.values())

    def test_fewer_answers_than_asked_for_are_no_answer(
        self, world: Database, server: OpenAIServer
    ) -> None:
        judge = judge_at(server, "samples", model="ignores-n", samples=3)
        route = RubricRoute(world, judge, load_rubric())
        report = ask(world, route, server, limit=1)
        assert (report.ok, report.parse_error) == (0, 1)
        assert world.execute("SELECT error FROM judge_calls").fetchone() == ("1 answers of 3",)


class TestHowAJudgeIsAsked:
    @pytest.mark.parametrize(
        ("how", "sent", "left_out"),
        [
            ("logprobs", {"logprobs": True, "temperature": 0.0, "top_logprobs": 20}, {"n"}),
            ("samples", {"n": 4, "temperature": 1.0, "top_p": 1.0}, {"logprobs"}),
            ("integer", {"temperature": 0.0, "seed": 0}, {"logprobs", "n"}),
        ],
    )
    def test_parameters(self, how: str, sent: dict[str, Any], left_out: set[str]) -> None:
        judge = Judge("m", "h", how, samples=4 if how == "samples" else 1)
        (request,) = judge.requests((("user", "x"),), 8)
        body = request.body()
        assert body.items() >= (sent | {"max_completion_tokens": 8}).items()
        assert not left_out & body.keys()

    def test_what_the_server_refuses_is_not_sent(self) -> None:
        judge = Judge(
            "m", "h", "samples", 3, None, temperature=False, n=False, limit="max_tokens", thinking=9
        )
        requests = judge.requests((("user", "x"),), 8)
        assert len({request.key("h") for request in requests}) == 3
        assert {*requests[0].body()} == {"model", "messages", "max_tokens"}
        assert requests[0].body()["max_tokens"] == 17

    def test_a_short_reply_is_seen_before_it_is_read(self, server: OpenAIServer) -> None:
        from annotator.signals.judges.reply import reply_from_json

        one = {"choices": [{"message": {"content": "4"}}]}
        judge = judge_at(server, "samples", samples=2)
        with pytest.raises(Unparsable, match="1 answers of 2"):
            judge.all_samples(reply_from_json(one))
        judge_at(server, "samples", samples=2, n=False).all_samples(reply_from_json(one))


def pairwise(db: Database, judge: Judge, opponents: int = 4, seed: int = 0) -> PairwiseRoute:
    return PairwiseRoute(db, judge, load_pair_rubric(), opponents=opponents, seed=seed)


def logistic(x: float) -> float:
    return 1 / (1 + exp(-x))


class TestPairwise:
    def test_both_orders_are_asked_and_the_better_one_wins(
        self, world: Database, server: OpenAIServer
    ) -> None:
        route = pairwise(world, judge_at(server))
        report = ask(world, route, server)
        n_pairs = sum(k * (k - 1) // 2 for k in SIZES)
        assert report.ok == route.n_calls() == 2 * n_pairs
        assert server.ledger.repeated() == 0
        done = route.record()
        assert (done.n_judged, done.n_flipped) == (n_pairs, 0)
        # P(a) = logistic(1.5 (grade of a - grade of b)), whichever comes first.
        said = dict(world.execute("SELECT id, text FROM responses").fetchall())
        rows = world.execute("SELECT a_id, b_id, p_a, judge_variance, flipped FROM judgements")
        for a_id, b_id, p_a, variance, flipped in rows.fetchall():
            better, worse = (float(re.findall(r"grade ([\d.]+)", said[i])[0]) for i in (a_id, b_id))
            assert p_a == pytest.approx(logistic(1.5 * (better - worse)), abs=1e-6)
            assert (variance, flipped) == (pytest.approx(0, abs=1e-9), 0)

    def test_scores_are_the_share_of_wins(self, world: Database, server: OpenAIServer) -> None:
        route = pairwise(world, judge_at(server))
        ask(world, route, server)
        done = route.record()
        expected = []
        for i, prompt in enumerate(prompts_with_responses(world)):
            grade = [float(re.findall(r"grade ([\d.]+)", text)[0]) for text in prompt.responses]
            k = SIZES[i]
            for mine in range(k):
                wins = [logistic(1.5 * (grade[mine] - grade[o])) for o in range(k) if o != mine]
                # With all pairs judged: (K - 1) / K (2 mean P(it wins) - 1).
                share = (k - 1) / k * (2 * sum(wins) / (k - 1) - 1) if wins else np.nan
                expected.append(share)
        assert recorded(world, done.method) == pytest.approx(expected, abs=1e-6, nan_ok=True)
        assert done.n_unscored == SIZES.count(1)

    def test_a_judge_that_likes_what_comes_first_is_in_doubt(self, db: Database) -> None:
        ids = add_prompt(db, [user("Which?")], ["One. [[grade 3]]", "Two. [[grade 3]]"])
        with serving(brain=brains.everyday(bias=2.0)) as server:
            route = pairwise(db, judge_at(server))
            ask(db, route, server)
        done = route.record()
        row = db.execute("SELECT a_id, b_id, p_a, judge_variance, flipped FROM judgements")
        first = logistic(2.0)
        assert row.fetchone() == (
            *sorted(ids),
            pytest.approx(0.5, abs=1e-6),
            pytest.approx((first - (1 - first)) ** 2 / 4, abs=1e-6),
            1,
        )
        assert (done.n_judged, done.n_flipped) == (1, 1)
        assert recorded(db, done.method) == pytest.approx([0, 0], abs=1e-6)
        assert all(
            variance is not None and variance > 0.1 for variance in variances(db, done.method)
        )

    @pytest.mark.parametrize("how", ["logprobs", "integer"])
    def test_orders_that_name_different_winners_leave_none(self, db: Database, how: str) -> None:
        """The better one wins with .96 where it stands first, and with .4 where it does not."""
        add_prompt(db, [user("Which?")], ["One. [[grade 3.9]]", "Two. [[grade 3]]"])
        with serving(brain=brains.everyday(bias=1.75)) as server:
            route = pairwise(db, judge_at(server, how))
            ask(db, route, server)
        done = route.record()
        row = db.execute("SELECT p_a, judge_variance, flipped FROM judgements").fetchone()
        ahead, behind = logistic(1.75 + 1.5 * 0.9), 1 - logistic(1.75 - 1.5 * 0.9)
        v_swap = (ahead - behind) ** 2 if how == "logprobs" else 1.0
        assert row == (0.5, pytest.approx(v_swap / 4, abs=1e-6), 1)
        assert recorded(db, done.method) == pytest.approx([0, 0], abs=1e-12)
        assert variances(db, done.method) == pytest.approx([v_swap / 4] * 2, abs=1e-6)

    def test_letters_that_agree_tell_no_variance(
        self, world: Database, server: OpenAIServer
    ) -> None:
        route = pairwise(world, judge_at(server, "integer"))
        ask(world, route, server)
        done = route.record()
        assert done.n_flipped == 0 < done.n_judged
        rows = world.execute("SELECT DISTINCT p_a IN (0, 1), judge_variance FROM judgements")
        assert rows.fetchall() == [(1, None)]
        assert done.n_scored > 0
        assert set(variances(world, done.method)) == {None}

    def test_one_order_without_an_answer_is_no_judgement(self, db: Database) -> None:
        one, two = "One. [[grade 4]]", "Two. [[grade 2]]"
        add_prompt(db, [user("Which?")], [one, two])

        def one_first(body: dict[str, Any]) -> bool:
            text = body["messages"][-1]["content"]
            return one in text and text.index(one) < text.index(two)

        with serving() as server:
            server.always(faults.says("Both are fine."), when=one_first)
            route = pairwise(db, judge_at(server))
            report = ask(db, route, server)
        assert (report.ok, report.parse_error) == (1, 1)
        done = route.record()
        assert (done.n_judged, done.n_scored, done.n_unscored) == (0, 0, 2)

    def test_of_many_responses_each_meets_some_others(
        self, db: Database, server: OpenAIServer
    ) -> None:
        add_prompt(db, [user("Which?")], [f"{j}. [[grade {1.5 + j / 4}]]" for j in range(9)])
        route = pairwise(db, judge_at(server), opponents=4)
        report = ask(db, route, server)
        assert report.ok == route.n_calls() == 2 * 9 * 4 // 2
        done = route.record()
        met = db.execute("SELECT a_id, b_id FROM judgements").fetchall()
        counts = np.bincount(np.array(met).ravel())
        assert set(counts[counts > 0]) == {4}
        order = np.argsort(recorded(db, done.method))
        quality = np.array(grades_planted(db))
        assert np.corrcoef(quality[order], np.arange(9))[0, 1] > 0.9
        requests = list(route.requests())
        assert requests == list(pairwise(db, judge_at(server)).requests())
        assert requests != list(pairwise(db, judge_at(server), seed=1).requests())

    def test_a_limit_keeps_prompts_whole(self, world: Database, server: OpenAIServer) -> None:
        route = pairwise(world, judge_at(server))
        whole = list(route.requests())
        for limit, n_pairs in ((1, 3), (3, 3), (4, 3), (5, 9), (15, 20)):
            part = list(route.requests(limit))
            assert part == whole[: 2 * n_pairs]
            assert route.n_calls(limit) == 2 * n_pairs

    def test_every_pair_stands_in_both_orders(self, world: Database, server: OpenAIServer) -> None:
        seen = []
        for request in pairwise(world, judge_at(server)).requests():
            text = request.messages[-1][1]
            places = {text.index(one): one for one in texts(world) if one in text}
            seen.append(tuple(places[place] for place in sorted(places)))
        expected = {
            pair
            for prompt in prompts_with_responses(world)
            for two in combinations(prompt.responses, 2)
            for pair in (two, two[::-1])
        }
        assert len(seen) == len(set(seen))
        assert set(seen) == expected


class TestReference:
    @pytest.fixture
    def world(self, db: Database) -> Database:
        for i, k in enumerate((3, 2, 4)):
            prompt = [user(f"Question {i}? [[answer: The cat {i} sat on the mat.]]")]
            add_prompt(db, prompt, [f"The cat {j} sat on it." for j in range(k)])
        return db

    def test_cosine_to_the_models_own_answer(
        self,
        world: Database,
        server: OpenAIServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(reference_route, "PROMPTS_AT_ONCE", 2)
        encoder, path = FakeEncoder(), tmp_path / "annotator.db"
        encoder_id = embed_missing(world, encoder, path).encoder_id
        stored = world.execute("SELECT count(*) FROM embeddings").fetchone()

        def cosine() -> Cosine:
            return Cosine(world, path, encoder_id, lambda texts: encoder.encode(texts).vectors)

        with serving(brain=brains.reference_writer()) as writer:
            judge = judge_at(writer, "integer")
            route = ReferenceRoute(world, judge, "cosine", cosine)
            assert ask(world, route, writer).ok == route.n_calls() == 3
            bodies = [arrival.body for arrival in writer.ledger.chats]
        assert {len(body["messages"]) for body in bodies} == {1}
        assert {body["max_completion_tokens"] for body in bodies} == {1024}
        done = route.record()
        expected = [
            float(encoder.vector(f"The cat {i} sat on the mat.") @ encoder.vector(text))
            for i, prompt in enumerate(prompts_with_responses(world))
            for text in prompt.responses
        ]
        assert recorded(world, done.method) == pytest.approx(expected, abs=1e-6)
        assert set(variances(world, done.method)) == {None}
        assert world.execute("SELECT DISTINCT encoder_id FROM scores").fetchall() == [(encoder_id,)]
        assert world.execute("SELECT count(*) FROM embeddings").fetchone() == stored

    def test_rouge_l(self, world: Database) -> None:
        with serving(brain=brains.reference_writer()) as writer:
            route = ReferenceRoute(world, judge_at(writer, "integer"), "rouge-l", RougeL)
            ask(world, route, writer)
        done = route.record()
        # "the cat I sat on the mat" (7 words) and "the cat J sat on it" (6): 5 in common where
        # I is J, else 4.
        expected = [
            2 * (5 if text == f"The cat {i} sat on it." else 4) / 13
            for i, prompt in enumerate(prompts_with_responses(world))
            for text in prompt.responses
        ]
        assert recorded(world, done.method) == pytest.approx(expected)
        host = re.escape(host_of(writer.url))
        # The answers are texts: no grade is read from them.
        assert re.fullmatch(rf"judge:reference:judge@{host}:rouge-l:[0-9a-f]{{8}}", done.method)
        words = f"reference rouge-l by judge at {host_of(writer.url)}"
        assert method_in_words(done.method, None) == words

    def test_a_prompt_without_an_answer_has_no_scores(self, world: Database) -> None:
        with serving(brain=brains.reference_writer()) as writer:
            writer.always(faults.refusal(), when="Question 1?")
            route = ReferenceRoute(world, judge_at(writer, "integer"), "rouge-l", RougeL)
            assert ask(world, route, writer).refused == 1
        found = recorded(world, route.record().method)
        assert np.flatnonzero(np.isnan(found)).tolist() == [3, 4]

    def test_other_weights_of_the_encoder_are_another_method(
        self, world: Database, server: OpenAIServer, tmp_path: Path
    ) -> None:
        path = tmp_path / "annotator.db"
        methods = set()
        for encoder in (FakeEncoder(), FakeEncoder(fingerprint="weights-2")):
            encoder_id = embed_missing(world, encoder, path).encoder_id
            similarity = Cosine(world, path, encoder_id, lambda texts: np.empty((0, 5)))
            route = ReferenceRoute(
                world, judge_at(server, "integer"), "cosine", lambda made=similarity: made
            )
            methods.add(route.record().method)
        assert len(methods) == 2


class TestForecast:
    PRICE = Price(2.0, 1.0, 2.0, 8.0, as_of=None)  # type: ignore[arg-type]

    @pytest.mark.parametrize("route", ["rubric", "pairwise"])
    def test_it_foretells_what_the_run_then_does(
        self, world: Database, server: OpenAIServer, route: str
    ) -> None:
        judge = judge_at(server)
        way: Route = (
            RubricRoute(world, judge, load_rubric())
            if route == "rubric"
            else pairwise(world, judge)
        )
        before = forecast(world, judge.host, way.requests(), self.PRICE)
        assert server.ledger.arrivals == []
        assert before.n_calls == before.n_to_ask == way.n_calls()
        ask(world, way, server, limit=4)
        part = server.ledger.count()
        between = forecast(world, judge.host, way.requests(), self.PRICE)
        assert (between.n_answered, between.n_to_ask) == (part, way.n_calls() - part)
        ask(world, way, server)
        assert server.ledger.count() == before.n_to_ask
        billed = server.ledger.billed
        # The server counts four bytes a token as the forecast does, and a few for each message.
        assert before.about_tokens_in == pytest.approx(billed.prompt, rel=0.15)
        assert billed.completion <= before.most_tokens_out
        cost = (billed.prompt * 2.0 + billed.completion * 8.0) / 1e6
        assert before.most_cost is not None and cost <= before.most_cost
        after = forecast(world, judge.host, way.requests(), self.PRICE)
        assert (after.n_to_ask, after.most_cost, after.about_tokens_in) == (0, 0, 0)

    def test_refusals_are_known_and_a_price_may_not_be(
        self, world: Database, server: OpenAIServer
    ) -> None:
        server.always(faults.refusal(), when=response(2, 0))
        route = RubricRoute(world, judge_at(server), load_rubric())
        ask(world, route, server)
        found = forecast(world, route._judge.host, route.requests(), None)
        assert (found.n_refused, found.n_to_ask) == (1, 0)
        assert (found.about_cost, found.most_cost) == (None, None)
