"""Rounds that learn: votes in the database change what the strategies are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlite_utils import Database

from annotator.labels.votes import Vote, counted_votes, record_annotators, record_votes
from annotator.rounds import signalled
from annotator.rounds.batch import Batch, BatchRequest, choose_and_record
from annotator.rounds.pool import build_pool
from annotator.rounds.signalled import SignalledStrategy, sampled_prompts
from annotator.signals.datamap import build_map
from annotator.signals.embeddings import embed_missing
from annotator.signals.scores import PEER_AGREEMENT, record_judged
from annotator.store import writing
from strategies import STRATEGIES
from strategies.pool import Pool, Selection, needs, signals_needed
from tests.fake_encoder import FakeEncoder
from tests.small_world import add_prompts

SIZES = [2, 5, 3, 2, 4, 6, 3]
JUDGE = "judge:rubric:m@h:helpful-v1-logprobs:12345678"
OTHER = "judge:rubric:m@h:helpful-v1-samples-8:12345678"
GRADES = ("a_much_better", "a_better", "tie", "both_bad", "b_better", "b_much_better")


class World:
    """Candidates with made-up vectors, rounds on them, and people who answer."""

    def __init__(self, db: Database, path: Path) -> None:
        self.db, self.path = db, path
        add_prompts(db, SIZES)
        self.encoder_id = embed_missing(db, FakeEncoder(), path).encoder_id
        with writing(db):
            db.execute(
                """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
                created_at) VALUES (1, 'http://s', 'm', 1, 't', 's', 1, '')"""
            )
            record_annotators(db, "http://s", {7: "ada", 8: "bo"})
        self.n_votes = 0

    def choose(self, n: int, strategy: str = "hybrid", seed: int = 5) -> Batch:
        request = BatchRequest(n=n, strategy=strategy, control=0.2, overlap=1, seed=seed)
        return choose_and_record(self.db, self.path, self.encoder_id, request, dry_run=False)

    def picked(self) -> list[tuple[int, int]]:
        return self.db.execute("SELECT a_id, b_id FROM picks ORDER BY id").fetchall()

    def answer(self, grade: str, where: str = "1") -> None:
        """One vote of that grade on every pick for which the condition holds and nobody voted."""
        query = f"""SELECT id FROM picks p WHERE {where} AND NOT EXISTS (
            SELECT 1 FROM votes v WHERE v.pick_id = p.id)"""
        votes = []
        for (pick_id,) in self.db.execute(query).fetchall():
            self.n_votes += 1
            at = f"2026-01-01T10:00:{self.n_votes % 60:02d}Z"
            votes.append(Vote(self.n_votes, self.n_votes, "vote", at, {}, pick_id, 1, grade=grade))
        with writing(self.db):
            record_votes(self.db, 1, votes, {})


@pytest.fixture
def world(db: Database, tmp_path: Path) -> World:
    return World(db, tmp_path / "annotator.db")


def shown_to(world: World, *signals: str, n: int = 3) -> Pool:
    """The pool that a strategy with these needs is given."""
    shown: list[Pool] = []

    @needs(*signals)
    def witness(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
        shown.append(pool)
        return STRATEGIES["random"](pool, n, rng)

    candidates = build_pool(world.db, world.path, world.encoder_id)
    strategy = SignalledStrategy(witness, world.db, world.path, candidates)
    strategy(candidates.pool, n, np.random.default_rng(0))
    return shown[0]


def test_votes_are_counted_in_the_frame_of_the_pair(world: World) -> None:
    world.choose(12, "random")
    for i, grade in enumerate(GRADES):
        world.answer(grade, f"place = {i}")
    votes = counted_votes(world.db)
    assert sorted(votes.grade.tolist()) == [-2, -1, 0, 0, 1, 2]
    picks = "SELECT a_id, b_id, arm = 'control', place FROM picks WHERE place < 6"
    expected = {
        (a, b): (bool(control), [2, 1, 0, 0, -1, -2][place])
        for a, b, control, place in world.db.execute(picks).fetchall()
    }
    found = zip(votes.a_ids, votes.b_ids, votes.control, votes.grade, strict=True)
    assert {(int(a), int(b)): (bool(c), int(g)) for a, b, c, g in found} == expected


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_chooses_before_and_after_votes(world: World, name: str) -> None:
    first = world.choose(6, name)
    world.answer("a_better")
    second = world.choose(6, name, seed=6)
    pairs = [(pick.a_id, pick.b_id) for batch in (first, second) for pick in batch.picks]
    assert len(set(pairs)) == 12


def test_a_strategy_is_given_what_it_needs_and_no_more(world: World) -> None:
    assert shown_to(world).reward_mean is None
    scored = shown_to(world, "scores")
    assert scored.response_score is not None and scored.reward_mean is None
    modelled = shown_to(world, "posterior")
    assert modelled.reward_mean is not None and modelled.policy_margin is None
    assert shown_to(world, "posterior", "policy").policy_margin is not None


def test_votes_move_the_posterior_of_their_own_pair(world: World) -> None:
    before = shown_to(world, "posterior")
    assert before.pair_margin is not None
    np.testing.assert_array_equal(before.pair_margin, 0.0)
    world.choose(8)
    world.answer("a_much_better")
    after = shown_to(world, "posterior")
    assert after.pair_margin is not None and after.pair_variance is not None
    assert after.pair_votes is not None and before.pair_variance is not None
    voted = after.pair_votes > 0
    assert voted.sum() == 8
    # In this world the response with the smaller key stands first, so it is a.
    assert (after.pair_margin[voted] > 0).all()
    assert (after.pair_variance[voted] < before.pair_variance[voted]).all()


def test_the_next_batch_knows_the_votes(world: World) -> None:
    """The same seed chooses another batch once people have said something else."""
    world.choose(10)
    world.answer("a_much_better")
    candidates = build_pool(world.db, world.path, world.encoder_id)
    strategy = SignalledStrategy(STRATEGIES["hybrid"], world.db, world.path, candidates)
    one = strategy(candidates.pool, 12, np.random.default_rng(3))
    with writing(world.db):
        world.db.execute("UPDATE votes SET grade = 'tie'")
    other = strategy(candidates.pool, 12, np.random.default_rng(3))
    assert set(one.positions.tolist()) != set(other.positions.tolist())


def test_of_a_large_pool_a_uniform_part_of_the_prompts_is_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.choose(4)
    world.answer("b_better")
    monkeypatch.setattr(signalled, "CANDIDATE_PAIRS", 3)
    monkeypatch.setattr(signalled, "ENOUGH", 1)
    candidates = build_pool(world.db, world.path, world.encoder_id)
    pool = candidates.pool
    voted = np.zeros(pool.n_prompts, dtype=bool)
    place = {int(i): at for at, i in enumerate(candidates.response_ids)}
    for a_id, _ in world.picked():
        voted[pool.prompt_of_response[place[a_id]]] = True
    open_prompts = np.isin(np.arange(pool.n_prompts), pool.prompt_of_pair[pool.pair_eligible])
    fresh = open_prompts & ~voted
    n_open = np.count_nonzero(pool.pair_eligible & fresh[pool.prompt_of_pair])
    share = np.ceil(fresh.sum() * min(1.0, 3 / n_open)) / fresh.sum()
    assert 0 < share < 1
    looked_at = np.zeros(pool.n_prompts)

    @needs("posterior")
    def witness(part: Pool, n: int, rng: np.random.Generator) -> Selection:
        return STRATEGIES["random"](part, part.n_eligible, rng)

    strategy = SignalledStrategy(witness, world.db, world.path, candidates)
    for seed in range(200):
        chosen = strategy(pool, 1, np.random.default_rng(seed))
        assert pool.pair_eligible[chosen.positions].all()
        prompts = pool.prompt_of_pair[chosen.positions]
        looked_at[np.unique(prompts)] += 1
        # `random` took everything it was shown with chance 1: what is left is the prompts' own.
        np.testing.assert_allclose(chosen.propensities, np.where(voted[prompts], 1.0, share))
    assert (looked_at[voted & open_prompts] == 200).all()
    deviation = np.sqrt(200 * share * (1 - share))
    assert np.abs(looked_at[fresh] - 200 * share).max() < 5 * deviation


@pytest.mark.parametrize("sizes", [[210], [60] * 5, [2, 2, 150, 2]])
def test_few_prompts_with_many_pairs_always_offer_enough(sizes: list[int]) -> None:
    prompts = np.repeat(np.arange(len(sizes)), sizes)
    vectors = np.eye(len(prompts), 400, dtype=np.float32)
    pool = Pool.of_responses(vectors, prompts)
    nobody = np.zeros(len(sizes), dtype=bool)
    for seed in range(50):
        looked_at, chance = sampled_prompts(pool, nobody, 100, np.random.default_rng(seed))
        part = pool.of_prompts(looked_at).pool
        assert part.n_eligible >= 100
        assert (chance > 0).all()


def test_a_round_says_what_it_learned_from(world: World) -> None:
    assert "n_votes" not in world.choose(4, "random").head.pool
    world.answer("a_better")
    pool = world.choose(5).head.pool
    assert (pool["n_votes"], pool["n_looked_at"]) == (4, 39 - 4 - 1)
    assert pool["setting"]["prior"]["own"] > 0 and pool["learner"] >= 1


def judged_by(world: World, method: str, *, downwards: bool = False) -> None:
    """All responses but the first have a score by that judge."""
    ids = [i for (i,) in world.db.execute("SELECT id FROM responses ORDER BY id")]
    scores = np.linspace(1, 5, len(ids) - 1)[:: -1 if downwards else 1]
    with writing(world.db):
        record_judged(world.db, method, np.array(ids[1:]), scores, np.zeros(len(scores)))


def came_with_the_data(world: World, name: str) -> str:
    with writing(world.db):
        world.db.execute(
            "INSERT OR IGNORE INTO imports (id, file, dataset, format, started_at) "
            "VALUES (1, 'f', 'd', 'native', '')"
        )
        world.db.execute(
            "INSERT INTO source_scores SELECT id, ?, id * id % 7, 1 FROM responses", [name]
        )
    return f"data:{name}"


def mapped(world: World, method: str = PEER_AGREEMENT) -> None:
    encoder_id = world.encoder_id if method == PEER_AGREEMENT else None
    build_map(world.db, world.path, encoder_id, method)


def told(world: World) -> object:
    """What the round says that its learner was told."""
    return world.choose(2).head.pool.get("scores")


def test_a_judges_scores_are_told_to_the_learner(world: World) -> None:
    world.choose(10)
    world.answer("a_better")
    assert told(world) is None
    without = shown_to(world, "posterior").signal("pair_variance")
    judged_by(world, JUDGE)
    assert told(world) == JUDGE  # the only one, mapped or not
    with_judge = shown_to(world, "posterior").signal("pair_variance")
    assert not np.allclose(with_judge, without)
    mapped(world, JUDGE)
    mapped(world)  # peer agreement, looked at last
    assert told(world) == JUDGE
    np.testing.assert_allclose(shown_to(world, "posterior").signal("pair_variance"), with_judge)


def test_of_several_judges_the_one_mapped_last_is_told(world: World) -> None:
    judged_by(world, JUDGE)
    judged_by(world, OTHER, downwards=True)
    mapped(world)
    assert told(world) is None
    for method in (OTHER, JUDGE):
        mapped(world, method)
        mapped(world)
        assert told(world) == method


def test_scores_of_the_data_are_told_unless_people_gave_them(world: World) -> None:
    model, people = came_with_the_data(world, "llm:m"), came_with_the_data(world, "human:mean")
    assert told(world) is None
    mapped(world, people)
    assert told(world) is None
    judged_by(world, JUDGE)
    assert told(world) == JUDGE
    mapped(world, model)
    mapped(world, people)
    assert told(world) == model
    mapped(world, JUDGE)
    mapped(world, people)
    assert told(world) == JUDGE


def test_needs_are_read_from_the_strategy() -> None:
    assert signals_needed(STRATEGIES["hybrid"]) == {"posterior"}
    assert signals_needed(STRATEGIES["real-easy"]) == frozenset()
