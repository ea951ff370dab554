"""Further votes on pairs of earlier rounds: which get one, in whose place, and that nobody is asked
twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from sqlite_utils import Database

from annotator.doctor import broken_invariants
from annotator.errors import RoundError
from annotator.labels.consensus_store import pair_beliefs
from annotator.labels.overlap import Overlap
from annotator.rounds import further as further_module
from annotator.rounds.batch import Batch, BatchRequest, choose_and_record
from annotator.rounds.believe import new_pair_gains
from annotator.rounds.choose import control_size
from annotator.rounds.further import (
    EarlierPairs,
    FurtherVotes,
    choose_further,
    further_progress,
    further_votes,
    places_given_up,
)
from annotator.rounds.picks import votes_per_pair
from annotator.rounds.sync import sync
from annotator.rounds.worth import WorthOfVotes
from annotator.signals.embeddings import embed_missing
from annotator.store import open_db
from annotator.studio.client import Studio
from annotator.studio.screen import answer_result
from strategies.within_prompt import Floats
from tests.fake_encoder import FakeEncoder
from tests.fake_studio import FakeStudio, fake_studio
from tests.pushed_world import be_impatient, push
from tests.small_world import add_prompts

SIZES = [2, 5, 3, 2, 4, 6, 3]  # 1 + 10 + 3 + 1 + 6 + 15 + 3 = 39 pairs
N_PAIRS = 39


# What stands of pairs, and what comes of it


def standing(*rows: tuple[int, int, int, int, int]) -> EarlierPairs:
    """Pairs of (votes, lead, asked, answered, seen)."""
    n = len(rows)
    columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    ids = np.arange(n)
    return EarlierPairs(100 + ids, 10 + ids, 50 + ids, *columns)


def chosen(
    pairs: EarlierPairs, overlap: str, gain: list[float] | None = None, n_voters: int = 9
) -> FurtherVotes:
    given = None if gain is None else np.array(gain)
    return choose_further(pairs, Overlap.parse(overlap), given, n_voters)


def asked(extra: list[Any]) -> list[tuple[int, int, int, str]]:
    """(position of the pair, votes more, overlap then, reason) of each."""
    return [(one.pick_id - 100, one.n_more, one.overlap, one.reason) for one in extra]


UNEQUAL = standing(
    (2, 0, 2, 2, 2),  # 0: one each
    (2, 2, 2, 2, 2),  # 1: agreed
    (2, 0, 3, 2, 2),  # 2: one each, the third under way
    (1, 1, 1, 1, 1),  # 3: of a round that asked one person
    (4, 1, 4, 4, 4),  # 4: one side leads by one
    (5, 1, 5, 5, 5),  # 5: undecided, at the most
    (3, -1, 3, 3, 5),  # 6: two skipped it
    (0, 0, 1, 1, 1),  # 7: its one answer cannot be counted
)


def test_until_agree_asks_where_no_side_leads_by_two() -> None:
    further = chosen(UNEQUAL, "until-agree:2-5")
    assert asked(further.first) == [
        (3, 1, 2, "least"),
        (7, 2, 3, "least"),
        (0, 1, 3, "until-agree"),
        (4, 1, 5, "until-agree"),
        (6, 1, 4, "until-agree"),
    ]
    assert further.by_gain == []
    assert [one.gain for one in further.first] == [None] * 5


def test_fixed_brings_all_to_its_number() -> None:
    assert asked(chosen(UNEQUAL, "fixed:3").first) == [
        (0, 1, 3, "least"),
        (1, 1, 3, "least"),
        (3, 2, 3, "least"),
        (7, 3, 4, "least"),
    ]


def test_expected_gain_ranks_by_what_a_vote_brings() -> None:
    gain = [0.02, 0.0, 0.5, 0.3, 0.01, 0.4, 0.02, np.nan]
    further = chosen(UNEQUAL, "expected-gain:2-5", gain)
    assert asked(further.first) == [(3, 1, 2, "least"), (7, 2, 3, "least")]
    assert asked(further.by_gain) == [
        (0, 1, 3, "expected-gain"),
        (6, 1, 4, "expected-gain"),
        (4, 1, 5, "expected-gain"),
    ]
    assert [one.gain for one in further.by_gain] == [0.02, 0.02, 0.01]
    assert [one.gain for one in further.first] == [0.3, None]


def test_a_pair_that_everybody_has_seen_waits_for_nobody() -> None:
    further = chosen(UNEQUAL, "until-agree:2-5", n_voters=4)
    assert [one.pick_id - 100 for one in further.first] == [3, 7, 0]
    assert further.n_seen_by_all == 2
    assert chosen(UNEQUAL, "until-agree:2-5", n_voters=2).n_seen_by_all == 3


def test_a_pair_whose_answers_never_count_is_given_up() -> None:
    pairs = standing((1, 1, 4, 4, 4), (1, 1, 5, 5, 5), (1, 1, 6, 6, 6))
    further = chosen(pairs, "until-agree:2-3")
    assert asked(further.first) == [(0, 1, 5, "least"), (1, 1, 6, "least")]
    assert (further.n_given_up, further.n_seen_by_all) == (1, 0)


@pytest.mark.parametrize("seed", range(40))
def test_places_are_given_up_while_the_further_vote_is_worth_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    further = np.sort(rng.integers(0, 6, rng.integers(0, 6)) / 10)[::-1]
    new = rng.integers(0, 6, rng.integers(0, 6)) / 10
    n = 0
    while n < len(further) and n < len(new) and further[n] > new[n]:
        n += 1
    assert places_given_up(further, new) == n


# Rounds on a server, with people


class Office:
    """Candidates, a server and people who label; each person is offered what the server offers."""

    def __init__(self, db: Database, path: Path, fake: FakeStudio, people: int) -> None:
        self.db, self.path, self.fake = db, path, fake
        add_prompts(db, SIZES)
        self.encoder_id = embed_missing(db, FakeEncoder(), path).encoder_id
        self.open = ExitStack()
        self.admin = self.open.enter_context(Studio(fake.url, fake.token))
        while len(fake.users) < people + 1:
            fake.add_user(f"person-{len(fake.users)}@example.com")
        self.people = [
            self.open.enter_context(Studio(fake.url, fake.token_of(user)))
            for user in range(2, people + 2)
        ]
        self.shown: dict[str, list[int]] = defaultdict(list)  # task key -> who was offered it

    def choose(self, n: int = 10, *, dry_run: bool = False, **settings: Any) -> Batch:
        request = {"strategy": "real-easy", "control": 0.2, "overlap": 1, "seed": 5} | settings
        asked_for = BatchRequest(n=n, **request)
        return choose_and_record(self.db, self.path, self.encoder_id, asked_for, dry_run=dry_run)

    def round(self, n: int = 10, **settings: Any) -> Batch:
        batch = self.choose(n, **settings)
        push(self.db, self.admin)
        return batch

    def label(self, rng: np.random.Generator, skips: float = 0.0) -> None:
        """Everybody labels in turn until nobody is offered anything; then it is synced.

        The longer text is the better one, mostly.
        """
        projects = [one for one in self.fake.projects]
        waiting = list(range(len(self.people)))
        while waiting:
            who = int(rng.choice(waiting))
            tasks = [self.people[who].next_task(project) for project in projects]
            task = next((one for one in tasks if one is not None), None)
            if task is None:
                waiting.remove(who)
                continue
            assert task.key is not None
            self.shown[task.key].append(who)
            if rng.random() < skips:
                self.people[who].submit(task.id, [], cancelled=True)
            else:
                longer = task.data["response_left"] > task.data["response_right"]
                right = longer if rng.random() < 0.75 else not longer
                said = "left_better" if right else "right_better"
                self.people[who].submit(task.id, answer_result(said))
        sync(self.db, self.admin)

    def answer(self, said: dict[int, dict[int, str]]) -> None:
        """Person -> place of the pick in the first round -> grade on the screen; synced."""
        ids = dict(
            self.db.execute(
                """SELECT p.place, t.studio_id FROM picks p JOIN tasks t ON t.pick_id = p.id
                WHERE p.round_id = 1"""
            ).fetchall()
        )
        for who, answers in said.items():
            for place, grade in answers.items():
                result = [] if grade == "skip" else answer_result(grade)
                self.people[who].submit(ids[place], result, cancelled=grade == "skip")
        sync(self.db, self.admin)

    def extra(self) -> list[tuple[int, int, int, str]]:
        """(round, place of the pick in its own round, overlap, reason) of every row."""
        query = """SELECT e.round_id, p.place, e.overlap, e.reason FROM extra_votes e
            JOIN picks p ON p.id = e.pick_id ORDER BY e.id"""
        return list(self.db.execute(query))

    def votes_by_pick(self, arm: str) -> Counter[int]:
        query = """SELECT p.id, count(v.id) FROM picks p LEFT JOIN current_votes v
            ON v.pick_id = p.id AND v.status = 'vote' WHERE p.arm = ? GROUP BY p.id"""
        return Counter(dict(self.db.execute(query, [arm]).fetchall()))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_impatient(monkeypatch)


@pytest.fixture
def fake() -> Iterator[FakeStudio]:
    with fake_studio() as server:
        yield server


@pytest.fixture
def office(db: Database, tmp_path: Path, fake: FakeStudio) -> Iterator[Office]:
    made = Office(db, tmp_path / "annotator.db", fake, people=5)
    with made.open:
        yield made
        assert broken_invariants(db) == []


def acquired_places(office: Office) -> list[int]:
    query = "SELECT place FROM picks WHERE arm = 'acquired' AND round_id = 1 ORDER BY place"
    return [place for (place,) in office.db.execute(query)]


AGREE, DIFFER = ("left_better", "left_better"), ("left_better", "right_better")


def two_each(office: Office, differing: set[int]) -> dict[int, dict[int, str]]:
    """Two people's answers on all of the first round; they differ at those places."""
    places = [place for (place,) in office.db.execute("SELECT place FROM picks")]
    answers = {place: DIFFER if place in differing else AGREE for place in places}
    return {who: {place: said[who] for place, said in answers.items()} for who in (0, 1)}


def voters(office: Office, *who: int) -> dict[int, dict[int, str]]:
    """One more vote each of these people, so that the office knows them, on control pairs."""
    control = office.db.execute("SELECT place FROM picks WHERE arm = 'control'").fetchone()[0]
    return {person: {control: "tie"} for person in who}


class TestWhichPairs:
    def test_differing_votes_are_asked_further_and_take_places(self, office: Office) -> None:
        office.round(overlap=2)
        places = acquired_places(office)
        office.answer(two_each(office, {places[1], places[4]}) | voters(office, 2))
        batch = office.round(overlap=2, overlap_most=5, overlap_policy="until-agree", seed=6)
        assert office.extra() == [(2, place, 3, "until-agree") for place in (places[1], places[4])]
        assert (batch.head.n_acquired, batch.head.n_control) == (6, 2)
        assert (batch.n_further, batch.n_votes) == (2, 8 * 2 + 2)
        assert (batch.head.overlap, batch.head.overlap_most) == (2, 5)
        assert batch.head.overlap_policy == "until-agree"
        heads = "SELECT n_acquired, overlap, overlap_most, overlap_policy FROM rounds"
        assert office.db.execute(heads).fetchall() == [(8, 2, 2, "fixed"), (6, 2, 5, "until-agree")]
        assert further_progress(office.db) == {"pairs": 2, "open": 2}

    def test_a_control_pair_never_is(self, office: Office) -> None:
        office.round(overlap=2)
        everywhere = set(range(10))
        office.answer(two_each(office, everywhere) | voters(office, 2))
        office.round(n=30, overlap=2, overlap_most=5, overlap_policy="until-agree", seed=6)
        raised = {place for _, place, _, _ in office.extra()}
        assert raised == set(acquired_places(office))
        assert len(raised) == 8

    def test_the_same_control_pairs_as_without_further_votes(self, office: Office) -> None:
        office.round(overlap=2)
        places = acquired_places(office)
        office.answer(two_each(office, set(places)) | voters(office, 2))
        plain = office.choose(overlap=2, seed=7, dry_run=True)
        further = office.choose(
            overlap=2, overlap_most=3, overlap_policy="until-agree", seed=7, dry_run=True
        )
        assert len(further.extra) == 8
        assert {p.pair_key for p in further.picks if p.arm == "control"} == {
            p.pair_key for p in plain.picks if p.arm == "control"
        }
        assert {p.arm for p in further.picks} == {"control"}
        assert further.head.n_acquired == 0

    def test_one_at_a_time(self, office: Office) -> None:
        """A pair whose further vote is still to come is left alone, whatever the others say."""
        settings = {"overlap": 2, "overlap_most": 5, "overlap_policy": "until-agree"}
        office.round(overlap=2)
        places = acquired_places(office)
        office.answer(two_each(office, {places[0]}) | voters(office, 2, 3))
        office.round(seed=6, **settings)
        assert office.choose(seed=7, dry_run=True, **settings).extra == []
        office.answer({2: {places[0]: "tie"}})
        (extra,) = office.choose(seed=7, dry_run=True, **settings).extra
        assert (extra.n_votes, extra.n_more, extra.overlap) == (3, 1, 4)

    def test_a_skip_keeps_the_place_open_and_does_not_ask_for_another(self, office: Office) -> None:
        settings = {"overlap": 2, "overlap_most": 5, "overlap_policy": "until-agree"}
        office.round(overlap=2)
        (place, *_) = acquired_places(office)
        answers = two_each(office, set()) | voters(office, 2, 3)
        answers[1][place] = "skip"
        office.answer(answers)
        # One vote and one skip of two: the server still offers it to a third person.
        assert office.choose(seed=6, dry_run=True, **settings).extra == []
        office.answer({2: {place: "right_better"}})
        (extra,) = office.choose(seed=6, dry_run=True, **settings).extra
        assert (extra.n_votes, extra.overlap) == (2, 3)

    def test_a_pair_of_a_round_that_asked_fewer_is_brought_to_the_least_first(
        self, office: Office
    ) -> None:
        office.round(overlap=1)
        places = acquired_places(office)
        office.answer({0: dict.fromkeys(range(10), "left_better")} | voters(office, 1, 2))
        batch = office.round(overlap=2, overlap_most=5, overlap_policy="until-agree", n=5, seed=6)
        # Four of the five places: the control arm keeps its own.
        assert office.extra() == [(2, place, 2, "least") for place in places[:4]]
        assert (batch.head.n_acquired, batch.head.n_control, batch.n_votes) == (0, 1, 6)

    def test_an_answer_that_cannot_be_counted_is_made_up_for(self, office: Office) -> None:
        office.round(overlap=2)
        (place, *_) = acquired_places(office)
        office.answer(two_each(office, set()) | voters(office, 2))
        (annotation_id,) = office.db.execute(
            """SELECT annotation_id FROM current_votes v JOIN picks p ON p.id = v.pick_id
            WHERE p.place = ? LIMIT 1""",
            [place],
        ).fetchone()
        office.admin.edit_annotation(annotation_id, [{"from_name": "?"}])
        sync(office.db, office.admin)
        batch = office.choose(overlap=2, overlap_most=3, overlap_policy="until-agree", dry_run=True)
        assert [(e.n_votes, e.n_more, e.overlap, e.reason) for e in batch.extra] == [
            (1, 1, 3, "least")
        ]

    def test_a_plain_number_leaves_earlier_pairs_alone(self, office: Office) -> None:
        office.round(overlap=1)
        office.answer({0: dict.fromkeys(range(10), "tie")} | voters(office, 1, 2))
        assert office.choose(overlap=3, dry_run=True).extra == []
        brought_up = office.choose(overlap=3, overlap_policy="fixed", dry_run=True).extra
        assert [(e.n_more, e.overlap) for e in brought_up] == [(2, 3)] * 8

    def test_a_task_that_was_deleted_or_is_not_there_yet_is_left_alone(
        self, office: Office
    ) -> None:
        office.round(overlap=2)
        places = acquired_places(office)
        office.answer(two_each(office, set(places)) | voters(office, 2))
        office.db.execute("UPDATE tasks SET state = 'gone' WHERE id = 1 + ?", [places[0]])
        office.db.execute("UPDATE tasks SET state = 'conflict' WHERE id = 1 + ?", [places[1]])
        batch = office.choose(overlap=2, overlap_most=3, overlap_policy="until-agree", dry_run=True)
        assert len(batch.extra) == len(places) - 2
        office.db.execute("UPDATE tasks SET state = 'swept'")

    def test_nobody_is_left_to_ask(self, office: Office) -> None:
        office.round(overlap=2)
        places = acquired_places(office)
        office.answer(two_each(office, set(places[:3])))
        batch = office.choose(overlap=2, overlap_most=3, overlap_policy="until-agree", dry_run=True)
        assert batch.extra == []
        assert "3 pairs want a further vote that nobody is left to give" in batch.notes[0]


class TestExpectedGain:
    SETTINGS: ClassVar[dict[str, Any]] = {
        "overlap": 2, "overlap_most": 5, "overlap_policy": "expected-gain", "seed": 6,
    }  # fmt: skip

    @pytest.fixture
    def voted(self, office: Office) -> Office:
        office.round(overlap=2)
        places = acquired_places(office)
        office.answer(two_each(office, set(places[::2])) | voters(office, 2))
        return office

    def gains(
        self, monkeypatch: pytest.MonkeyPatch, further: list[float], new: list[float]
    ) -> None:
        """Further votes on the first round's acquired pairs bring this, in the order of places;
        first votes on new pairs that, in the order in which they are chosen."""

        def of_further(_: WorthOfVotes, a_ids: Any, __: Any) -> Floats:
            assert len(a_ids) == len(further)
            return np.array(further)

        def of_first(_: WorthOfVotes, positions: Any) -> Floats:
            return np.array(new[::-1][: len(positions)])

        monkeypatch.setattr(WorthOfVotes, "of_further_votes", of_further)
        monkeypatch.setattr(WorthOfVotes, "of_first_votes", of_first)

    def test_places_go_to_what_brings_more(
        self, voted: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.gains(
            monkeypatch,
            further=[0.10, 0.01, 0.30, 0.0, 0.05, 0.20, 0.0, 0.02],
            new=[0.9, 0.9, 0.9, 0.9, 0.06, 0.04, 0.15, 0.04],
        )
        whole = voted.choose(overlap=2, seed=6, dry_run=True)
        batch = voted.round(**self.SETTINGS)
        places = acquired_places(voted)
        # .30 > .04, .20 > .15, .10 > .04, but .05 < .06.
        assert [place for _, place, _, _ in voted.extra()] == [places[i] for i in (2, 5, 0)]
        assert [extra.gain for extra in batch.extra] == [0.30, 0.20, 0.10]
        rows = "SELECT gain, n_votes, reason FROM extra_votes ORDER BY id"
        assert voted.db.execute(rows).fetchall() == [
            (gain, 2, "expected-gain") for gain in (0.30, 0.20, 0.10)
        ]
        assert (batch.head.n_acquired, batch.head.n_control, batch.n_votes) == (5, 2, 17)
        # Those that were chosen last gave way, and nothing else changed.
        kept = {(p.pair_key, p.draw) for p in whole.picks if p.arm == "control" or p.draw < 5}
        assert {(p.pair_key, p.draw) for p in batch.picks} == kept

    def test_sides_are_balanced_over_what_is_left(
        self, voted: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.gains(monkeypatch, further=[0.5] * 8, new=[0.9] * 4 + [0.1] * 4)
        for seed in range(8):
            batch = voted.choose(**self.SETTINGS | {"seed": seed}, dry_run=True)
            assert len(batch.picks) == 6
            assert Counter(p.side_order for p in batch.picks) == {"ab": 3, "ba": 3}

    def test_who_keeps_a_place_has_no_known_chance(
        self, voted: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.gains(monkeypatch, further=[0.5] * 3 + [0.0] * 5, new=[0.1] * 8)
        batch = voted.choose(**self.SETTINGS | {"strategy": "random"}, dry_run=True)
        n_left = N_PAIRS - 10
        for pick in batch.picks:
            if pick.arm == "control":
                assert pick.propensity == pytest.approx(2 / n_left)
            else:  # it depended on what was drawn who had to go
                assert pick.propensity is None

    def test_the_whole_of_what_is_acquired_may_give_way(
        self, voted: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.gains(monkeypatch, further=[0.5] * 8, new=[0.1] * 8)
        batch = voted.round(**self.SETTINGS)
        assert (batch.head.n_acquired, batch.head.n_control, batch.n_further) == (0, 2, 8)

    def test_with_the_model_itself(self, office: Office) -> None:
        """Worked out again, place by place, from the stored consensus and the model's own words."""
        office.round(n=16, overlap=2)
        office.label(np.random.default_rng(5))
        settings = self.SETTINGS | {"n": 20}
        whole = office.choose(overlap=2, seed=6, n=20, dry_run=True)
        batch = office.choose(**settings, dry_run=True)
        acquired = sorted((p for p in whole.picks if p.arm == "acquired"), key=lambda p: p.draw)
        a_ids, b_ids = (np.array([getattr(p, e) for p in acquired]) for e in ("a_id", "b_id"))
        new = new_pair_gains(office.db, office.path, office.encoder_id, a_ids, b_ids)
        known = pair_beliefs(office.db)
        gain = {
            (int(a), int(b)): float(g)
            for a, b, g in zip(known.a_ids, known.b_ids, known.gain, strict=True)
        }
        picked = office.db.execute(
            """SELECT p.a_id, p.b_id, count(DISTINCT v.grade) FROM picks p
            JOIN current_votes v ON v.pick_id = p.id WHERE p.arm = 'acquired' GROUP BY p.id"""
        ).fetchall()
        gains = sorted((gain[a, b] for a, b, _ in picked), reverse=True)
        n = 0
        while n < len(gains) and gains[n] > 0 and gains[n] > new[len(new) - 1 - n]:
            n += 1
        assert n > 0
        assert [extra.gain for extra in batch.extra] == pytest.approx(gains[:n])
        assert batch.head.n_acquired == 16 - n
        # Where two people differ, one more vote says more than where they agree.
        by_sides = [[gain[a, b] for a, b, sides in picked if sides == n] for n in (1, 2)]
        assert np.mean(by_sides[1]) > np.mean(by_sides[0])


class TestNothingLeftToChoose:
    def test_a_round_of_further_votes_alone(self, office: Office) -> None:
        office.round(n=N_PAIRS, overlap=2)
        places = acquired_places(office)
        office.answer(two_each(office, set(places[:5])) | voters(office, 2))
        settings = {"overlap": 2, "overlap_most": 5, "overlap_policy": "until-agree"}
        batch = office.round(n=4, seed=6, **settings)
        assert (batch.picks, batch.n_votes, batch.head.n_acquired) == ([], 4, 0)
        assert [place for _, place, _, _ in office.extra()] == places[:4]
        rest = office.round(n=4, seed=7, **settings)
        assert rest.n_votes == 1
        with pytest.raises(RoundError, match="wants no further vote"):
            office.choose(n=4, seed=8, **settings)
        assert office.db["rounds"].count == 3

    def test_the_gain_ranks_them(self, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
        office.round(n=N_PAIRS, overlap=2)
        office.answer(two_each(office, set()) | voters(office, 2))
        places = acquired_places(office)
        gain = np.zeros(len(places))
        gain[[3, 1, 8]] = [0.2, 0.3, 0.1]
        monkeypatch.setattr(WorthOfVotes, "of_further_votes", lambda *_: gain)
        office.round(n=9, overlap=2, overlap_most=4, overlap_policy="expected-gain", seed=6)
        assert [place for _, place, _, _ in office.extra()] == [places[i] for i in (1, 3, 8)]

    def test_the_last_vote_is_not_asked_where_it_turns_nothing(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        office.round(n=N_PAIRS, overlap=2)
        office.answer(two_each(office, set()) | voters(office, 2))
        gain = np.full(len(acquired_places(office)), 0.3)
        monkeypatch.setattr(WorthOfVotes, "of_further_votes", lambda *_: gain)
        with pytest.raises(RoundError, match="wants no further vote"):
            office.round(n=9, overlap=2, overlap_most=3, overlap_policy="expected-gain", seed=6)


def test_before_the_first_vote_there_is_nothing_to_ask(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorthOfVotes, "of_first_votes", lambda *_: pytest.fail("a fit for nothing"))
    batch = office.choose(overlap=2, overlap_most=5, overlap_policy="expected-gain", dry_run=True)
    assert (batch.extra, batch.notes, batch.n_votes) == ([], [], 20)
    nothing = Overlap.parse("until-agree:2-5")
    assert len(further_votes(office.db, nothing, lambda *_: pytest.fail("no pairs"))) == 0


def test_a_round_that_cannot_be_recorded_asks_for_nothing(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round, picks and further votes are one transaction."""
    office.round(overlap=2)
    office.answer(two_each(office, set(range(10))) | voters(office, 2))
    before = office.db.execute("SELECT count(*), max(overlap) FROM tasks").fetchone()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("annotator.rounds.batch.ask_for_votes", killed)
    with pytest.raises(KeyboardInterrupt):
        office.choose(overlap=2, overlap_most=5, overlap_policy="until-agree", seed=6)
    assert office.db.execute("SELECT count(*), max(overlap) FROM tasks").fetchone() == before
    assert (office.db["rounds"].count, office.db["extra_votes"].count) == (1, 0)


def test_rounds_chosen_at_once_ask_for_different_votes(office: Office) -> None:
    office.round(n=20, overlap=2)
    places = acquired_places(office)
    office.answer(two_each(office, set(places)) | voters(office, 2))

    def choose(seed: int) -> Batch:
        db = open_db(office.path)
        try:
            request = BatchRequest(
                5, "real-easy", 0.2, 2, seed, overlap_most=3, overlap_policy="until-agree"
            )
            return choose_and_record(db, office.path, office.encoder_id, request, dry_run=False)
        finally:
            db.close()

    with ThreadPoolExecutor(3) as several:
        batches = list(several.map(choose, range(3)))
    assert [len(batch.extra) for batch in batches] == [4, 4, 4]
    assert sorted(place for _, place, _, _ in office.extra()) == places[:12]
    assert push(office.db, office.admin).raised == 12


POLICIES = [("until-agree", 2, 4), ("expected-gain", 1, 3), ("expected-gain", 2, 5)]


@pytest.mark.parametrize(("policy", "least", "most"), POLICIES)
def test_a_loop_of_several_people(office: Office, policy: str, least: int, most: int) -> None:
    """Nobody is asked twice, nobody beyond the most, control exactly the least; and what was asked
    is what came."""
    rng = np.random.default_rng(4)
    n_asked = 0
    for n in (6, 6, 8, 8):
        batch = office.round(
            n, overlap=least, overlap_most=most, overlap_policy=policy, control=0.25, seed=n_asked
        )
        assert len(batch.picks) + len(batch.extra) == n
        assert batch.head.n_control == control_size(n, 0.25)
        n_asked += batch.n_votes
        office.label(rng, skips=0.1)
        assert broken_invariants(office.db) == []
        assert further_progress(office.db)["open"] == 0
    assert office.db["extra_votes"].count > 0
    assert all(len(people) == len(set(people)) for people in office.shown.values())
    control = office.votes_by_pick("control")
    assert set(control.values()) == {least}
    acquired = office.votes_by_pick("acquired")
    assert least <= min(acquired.values()) and max(acquired.values()) <= most
    assert acquired.total() + control.total() == n_asked
    per_pair = Counter([*acquired.values(), *control.values()])
    assert votes_per_pair(office.db) == dict(per_pair)
    # Each pick's task asks for what was asked last, and for more each time.
    raises: dict[int, list[int]] = defaultdict(list)
    for pick_id, overlap in office.db.execute(
        "SELECT pick_id, overlap FROM extra_votes ORDER BY id"
    ):
        raises[pick_id].append(overlap)
    told = dict(office.db.execute("SELECT pick_id, overlap_told FROM tasks WHERE overlap NOT NULL"))
    assert told == {pick_id: overlaps[-1] for pick_id, overlaps in raises.items()}
    assert all(a < b for overlaps in raises.values() for a, b in pairwise(overlaps))
    assert {pick_id: acquired[pick_id] for pick_id in told} == told


def test_until_agree_ends_where_one_side_leads_by_two_or_the_most_is_reached(
    office: Office,
) -> None:
    rng = np.random.default_rng(4)
    settings = {"overlap": 2, "overlap_most": 4, "overlap_policy": "until-agree"}
    office.round(n=N_PAIRS, overlap=2)
    for seed in range(6):
        office.label(rng)
        try:
            office.round(n=N_PAIRS, seed=seed, **settings)
        except RoundError:
            break
    else:
        pytest.fail("it never ends")
    rows = office.db.execute(
        """SELECT sum(v.grade = 'a_better'), sum(v.grade = 'b_better') FROM picks p
        JOIN current_votes v ON v.pick_id = p.id WHERE p.arm = 'acquired' GROUP BY p.id"""
    ).fetchall()
    assert len(rows) == 31
    assert all(abs(a - b) >= 2 or a + b == 4 for a, b in rows)
    # A lead of two takes two votes or four, never three.
    assert {a + b for a, b in rows} == {2, 4}


def test_what_the_server_counts_is_what_is_read(office: Office) -> None:
    """Places of a task as the server sees them: rejected answers and edits, not skips."""
    office.round(overlap=2, n=4)
    office.answer({0: dict.fromkeys(range(4), "tie"), 1: {0: "skip", 1: "tie"}, 2: {0: "tie"}})
    ids = dict(
        office.db.execute(
            """SELECT p.place, t.studio_id FROM picks p JOIN tasks t ON t.pick_id = p.id"""
        ).fetchall()
    )
    office.people[3].submit(ids[2], [{"from_name": "?"}])
    sync(office.db, office.admin)
    found = {
        place: (answered, recent)
        for place, answered, recent in office.db.execute(
            f"SELECT p.place, w.answered, w.recent FROM ({further_module._PEOPLE}) w "
            "JOIN picks p ON p.id = w.pick_id"
        )
    }
    assert found == {0: (2, 3), 1: (2, 2), 2: (2, 1), 3: (1, 1)}
    closed = {place for place in ids if office.fake.tasks[ids[place]]["is_labeled"]}
    assert closed == {place for place, (answered, _) in found.items() if answered >= 2}
