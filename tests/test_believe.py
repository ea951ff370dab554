"""What is believed of pairs and people: computed from the votes, kept, and made anew in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlite_utils import Database

from annotator.labels.consensus import verdicts
from annotator.labels.consensus_store import newest_build, pair_beliefs, skills
from annotator.labels.votes import Vote, record_annotators, record_votes
from annotator.rounds import believe
from annotator.rounds.believe import ensure_consensus, new_pair_gains
from annotator.rounds.pool import build_pool
from annotator.rounds.signalled import SignalledStrategy
from annotator.signals.embeddings import embed_missing
from annotator.store import writing
from strategies.pool import Pool, Selection, needs
from tests.fake_encoder import FakeEncoder
from tests.small_world import add_prompts, add_round

PEOPLE = {7: "ada", 8: "bo", 9: "cy"}  # annotators 1, 2 and 3


class World:
    """Pairs of six prompts, half of them picked, and people who answer the picks."""

    def __init__(self, db: Database, path: Path) -> None:
        self.db, self.path = db, path
        responses = add_prompts(db, [8, 3, 5, 2, 6, 4])
        self.pairs = [(a, b) for ids in responses for i, a in enumerate(ids) for b in ids[i + 1 :]]
        self.encoder_id = embed_missing(db, FakeEncoder(), path).encoder_id
        with writing(db):
            db.execute(
                """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
                created_at) VALUES (1, 'http://s', 'm', 1, 't', 's', 1, '')"""
            )
            record_annotators(db, "http://s", PEOPLE)
        self.picked = self.pairs[::2]
        self.picks = add_round(db, self.picked)
        self.n_votes = 0

    def vote(self, pick: int, annotator: int, grade: str) -> None:
        """One more vote."""
        self.n_votes += 1
        n = self.n_votes
        with writing(self.db):
            record_votes(
                self.db,
                1,
                [Vote(n, n, "vote", f"2026-01-01T10:00:00.{n:06d}Z", {}, pick, annotator, grade)],
                {},
            )

    def everybody_votes(self, careless: int = 3) -> None:
        """Two prefer the older response everywhere; the third presses left, whatever is there."""
        for place, (pick, (a, b)) in enumerate(zip(self.picks, self.picked, strict=True)):
            for annotator in (1, 2):
                self.vote(pick, annotator, "a_better" if a < b else "b_better")
            self.vote(pick, careless, "a_better" if place % 2 == 0 else "b_better")

    def ensure(self) -> int:
        """The id of the build that is up to date."""
        build = ensure_consensus(self.db, self.path, self.encoder_id)
        assert build is not None
        return build.id


@pytest.fixture
def world(db: Database, tmp_path: Path) -> World:
    return World(db, tmp_path / "annotator.db")


def test_nothing_is_believed_before_the_first_vote(world: World) -> None:
    assert ensure_consensus(world.db, world.path, world.encoder_id) is None
    assert newest_build(world.db) is None
    assert len(pair_beliefs(world.db).a_ids) == 0
    assert skills(world.db) == {}


@pytest.mark.parametrize("with_encoder", [True, False])
def test_two_who_agree_outweigh_one_who_presses_left(world: World, with_encoder: bool) -> None:
    world.everybody_votes()
    ensure_consensus(world.db, world.path, world.encoder_id if with_encoder else None)
    found = pair_beliefs(world.db)
    pairs = list(zip(found.a_ids.tolist(), found.b_ids.tolist(), strict=True))
    assert sorted(pairs) == sorted(world.picked)
    assert found.n_votes.tolist() == [3] * len(pairs)
    older = np.array(["a" if a < b else "b" for a, b in pairs])
    sided = np.where(found.preferred > 0.5, "a", "b")
    assert (sided == older).all()
    assert (found.verdict == older).mean() > 0.9
    people = skills(world.db)
    assert people[3].skill_high < min(people[1].skill, people[2].skill)
    assert people[3].left_low > 0.2 > max(abs(people[1].left_bias), abs(people[2].left_bias))


def test_a_build_stands_until_something_changes(world: World) -> None:
    world.everybody_votes()
    first = world.ensure()
    assert world.ensure() == first
    world.vote(world.picks[0], 1, "tie")
    second = world.ensure()
    assert second != first
    build = ensure_consensus(world.db, world.path, None)  # by votes alone is another thing
    assert build is not None and build.settings["from"] == "votes" and build.id != second
    a, b = world.pairs[1]
    with writing(world.db):
        world.db.execute("INSERT INTO gold VALUES (?, ?, 'a', 1)", [a, b])
    third = world.ensure()
    assert third not in (first, second, build.id)
    (kept,) = world.db.execute("SELECT count(*) FROM consensus_builds").fetchone()
    assert kept == 1


def test_a_kill_while_a_build_is_written_leaves_the_old_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.everybody_votes()
    first = world.ensure()
    before = pair_beliefs(world.db).preferred.tolist()
    world.vote(world.picks[0], 1, "b_much_better")

    def stop(*_: object, **__: object) -> None:
        world.db.execute("DELETE FROM consensus_builds")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(believe, "store_build", stop)
        with pytest.raises(KeyboardInterrupt):
            world.ensure()
    build = newest_build(world.db)
    assert build is not None and build.id == first
    assert pair_beliefs(world.db).preferred.tolist() == before
    world.ensure()
    assert pair_beliefs(world.db).preferred.tolist() != before


def test_pairs_without_vectors_are_believed_by_their_votes(world: World) -> None:
    world.everybody_votes()
    world.ensure()
    seen = pair_beliefs(world.db)
    world.db.execute(
        """DELETE FROM embeddings WHERE text_hash IN (SELECT text_hash FROM responses
        WHERE prompt_id = 2)"""
    )
    world.vote(world.picks[0], 1, "a_better")
    world.ensure()
    blind = pair_beliefs(world.db)
    assert len(blind.a_ids) == len(seen.a_ids)
    of_prompt = {row[0] for row in world.db.execute("SELECT id FROM responses WHERE prompt_id = 2")}
    gone = np.isin(blind.a_ids, list(of_prompt))
    assert gone.any() and not gone.all()
    older = np.where(blind.a_ids < blind.b_ids, "a", "b")
    assert (np.where(blind.preferred > 0.5, "a", "b") == older)[gone].all()


def test_gold_tells_whom_to_believe(world: World) -> None:
    """Two against one: alone the two win; where gold says that the one is right, the one does."""
    for pick in world.picks:
        for annotator, grade in ((1, "a_better"), (2, "a_better"), (3, "b_better")):
            world.vote(pick, annotator, grade)
    world.ensure()
    assert skills(world.db)[3].skill < skills(world.db)[1].skill
    with writing(world.db):
        world.db.conn.executemany(
            "INSERT INTO gold VALUES (?, ?, 'b', 1)", world.picked[: len(world.picked) // 2]
        )
    world.ensure()
    people = skills(world.db)
    assert people[3].skill > people[1].skill and people[3].skill > people[2].skill


def test_a_first_vote_gains_most_where_least_is_known(world: World) -> None:
    world.everybody_votes()
    unasked = np.array(world.pairs[1::2])
    asked = np.array(world.picked)
    gain = new_pair_gains(world.db, world.path, world.encoder_id, *unasked.T)
    assert np.all(gain >= 0.0) and np.all(gain < 0.5)
    world.ensure()
    assert gain.mean() > pair_beliefs(world.db).gain.mean()
    nothing_known = new_pair_gains(world.db, world.path, None, *asked.T)
    assert np.ptp(nothing_known) < 1e-9


def test_the_learner_believes_people_as_far_as_they_deserve(world: World) -> None:
    world.everybody_votes()
    shown: list[Pool] = []

    @needs("posterior")
    def witness(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
        shown.append(pool)
        positions = np.flatnonzero(pool.pair_eligible)[:n]
        return Selection(positions, np.zeros(n), np.full(n, np.nan))

    candidates = build_pool(world.db, world.path, world.encoder_id)
    strategy = SignalledStrategy(witness, world.db, world.path, candidates)
    strategy(candidates.pool, 1, np.random.default_rng(0))
    assert strategy._lapses(strategy._votes()) is not None
    of_vote = strategy._lapses(strategy._votes())
    who = strategy._votes().annotator_ids
    assert of_vote is not None
    assert of_vote[who == 3].min() > of_vote[who != 3].max()


def test_verdicts_by_hand() -> None:
    preferred = np.array([0.95, 0.05, 0.7, 0.8, 0.5, 0.99])
    tie = np.array([0.1, 0.2, 0.1, 0.0, 0.4, 0.6])
    assert verdicts(preferred, tie).tolist() == ["a", "b", "disputed", "a", "disputed", "tie"]
