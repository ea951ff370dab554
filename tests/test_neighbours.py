"""Neighbours over a corpus against brute force, and the pairs that a round leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sqlite_utils import Database

from annotator.cli import main
from annotator.config import RoundSettings
from annotator.rounds.batch import BatchRequest, choose_and_record
from annotator.rounds.duplicates import NEAR_DUPLICATES
from annotator.rounds.pool import CandidatePool, build_pool
from annotator.signals.chunking import unit
from annotator.signals.embeddings import embed_missing
from annotator.signals.encoder import Encoded
from annotator.signals.neighbours import kmeans_centres, near_duplicates, nearest
from tests.fake_encoder import FakeEncoder
from tests.ready_project import make_project
from tests.small_world import add_prompt


def vectors_of(n: int, d: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32))


def groups_by_hand(vectors: np.ndarray, threshold: float) -> list[int]:
    """The lowest row that can be reached from each row over pairs that are alike."""
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    alike = wide @ wide.T >= threshold - 1e-12
    lowest = np.arange(len(vectors))
    while True:
        lower = np.where(alike, lowest, len(vectors)).min(axis=1)
        if np.array_equal(lower, lowest):
            return lowest.tolist()
        lowest = lower


class TestNearDuplicates:
    @pytest.mark.parametrize("exact_rows", [10_000, 10])
    @pytest.mark.parametrize("threshold", [0.9, 0.97, 0.9995, 1.0])
    def test_groups_of_near_duplicates(self, threshold: float, exact_rows: int) -> None:
        rng = np.random.default_rng(1)
        vectors = vectors_of(900, 24)
        for far in (0.002, 0.02, 0.05):  # cosines of about .9999, .99 and .94
            take = rng.choice(900, 100, replace=False)
            vectors[take[:50]] = vectors[take[50:]] + far * rng.standard_normal((50, 24))
        vectors[-20:] = vectors[:20]
        vectors = unit(vectors)
        found = near_duplicates(vectors, threshold, exact_rows=exact_rows)
        expected = groups_by_hand(vectors, threshold)
        if exact_rows > 900 or threshold > 0.999:
            assert found.tolist() == expected
        else:  # the partition may part what is far apart; it must join nothing that is not alike
            assert np.mean(found == expected) > 0.98
            assert (found >= expected).all()
        assert np.array_equal(found, near_duplicates(vectors, threshold, exact_rows=exact_rows))

    def test_a_chain_is_one_group(self) -> None:
        angles = np.deg2rad([40, 0, 10, 20, 80, 30])
        vectors = np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)
        found = near_duplicates(vectors, float(np.cos(np.deg2rad(10.5))))
        assert found.tolist() == [0, 0, 0, 0, 4, 0]

    def test_nothing_and_nonsense(self) -> None:
        assert near_duplicates(np.empty((0, 3), dtype=np.float32), 0.9).tolist() == []
        assert near_duplicates(vectors_of(1, 3), 0.9).tolist() == [0]
        with pytest.raises(ValueError, match=r"threshold of 1\.5"):
            near_duplicates(vectors_of(2, 3), 1.5)

    def test_a_memmap(self, tmp_path: Path) -> None:
        vectors = np.repeat(vectors_of(30, 8), 2, axis=0)
        vectors.tofile(tmp_path / "v")
        mapped = np.memmap(tmp_path / "v", np.float32, "r", shape=vectors.shape)
        assert (
            near_duplicates(mapped, 0.9999).tolist() == np.repeat(np.arange(0, 60, 2), 2).tolist()
        )


class TestNearest:
    def test_against_a_full_sort(self) -> None:
        vectors, queries = vectors_of(500, 12), vectors_of(30, 12, seed=9)
        rows, cosines = nearest(vectors, queries, 7)
        all_cosines = queries @ vectors.T
        assert np.array_equal(rows, np.argsort(-all_cosines, axis=1)[:, :7])
        assert cosines == pytest.approx(np.take_along_axis(all_cosines, rows, axis=1), abs=1e-6)

    def test_cells_find_most_of_what_is_there(self) -> None:
        centres = vectors_of(40, 16)
        near = centres[np.random.default_rng(2).integers(40, size=3000)]
        vectors = unit(near + 0.05 * vectors_of(3000, 16, seed=3))
        exact, _ = nearest(vectors, vectors[:200], 5)
        rows, cosines = nearest(vectors, vectors[:200], 5, exact_rows=0)
        assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(rows, exact, strict=True)]) > 0.95
        assert (np.diff(cosines, axis=1) <= 0).all()

    def test_too_many_neighbours(self) -> None:
        with pytest.raises(ValueError, match="4 neighbours among 3 vectors"):
            nearest(vectors_of(3, 2), vectors_of(1, 2), 4)


class TestKmeansCentres:
    def test_finds_planted_clusters_and_repeats_itself(self) -> None:
        planted = np.eye(6, dtype=np.float32)
        rng = np.random.default_rng(4)
        vectors = unit(planted[rng.integers(6, size=600)] + 0.02 * vectors_of(600, 6))
        centres = kmeans_centres(vectors, 6, seed=1)
        assert np.array_equal(centres, kmeans_centres(vectors, 6, seed=1))
        assert np.linalg.norm(centres, axis=1) == pytest.approx(1, abs=1e-5)
        spread = 1 - (vectors @ centres.T).max(axis=1)
        shuffled = vectors[rng.permutation(600)[:6]]
        assert spread.mean() < (1 - (vectors @ shuffled.T).max(axis=1)).mean() + 1e-6

    def test_more_centres_than_vectors(self) -> None:
        with pytest.raises(ValueError, match="4 centres of 3 vectors"):
            kmeans_centres(vectors_of(3, 2), 4, seed=0)


class UncasedEncoder(FakeEncoder):
    """Blind to case and white space, as the usual encoders are; and it overlooks the word not."""

    def encode(self, texts: list[str]) -> Encoded:
        read = [" ".join(word for word in text.lower().split() if word != "not") for text in texts]
        return super().encode(read)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def questions(db: Database, candidates: CandidatePool) -> list[tuple[str, set[str]]]:
    """Prompt and texts of every pair of the pool."""
    pool, ids = candidates.pool, candidates.response_ids
    query = """SELECT r.id, r.text, p.messages FROM responses r
        JOIN prompts p ON p.id = r.prompt_id"""
    found = {row[0]: row[1:] for row in db.execute(query)}
    pairs = zip(ids[pool.pair_a].tolist(), ids[pool.pair_b].tolist(), strict=True)
    return [(json.loads(found[a][1])[0]["content"], {found[a][0], found[b][0]}) for a, b in pairs]


class TestPairsLeftOut:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "annotator.db"

    def pool(self, db: Database, path: Path, **settings: float) -> CandidatePool:
        self.encoder_id = embed_missing(db, UncasedEncoder(dimension=16), path).encoder_id
        return build_pool(db, path, self.encoder_id, **settings)

    def test_what_reads_the_same_is_not_compared(self, db: Database, path: Path) -> None:
        add_prompt(db, user("Capital?"), ["Paris.", "Paris. \r\n", "Rome.", "Paris, not Rome."])
        candidates = self.pool(db, path)
        assert candidates.n_redundant == 3
        assert candidates.snapshot()["n_redundant"] == 3
        left = [texts for _, texts in questions(db, candidates)]
        kept = [texts for texts in left if texts & {"Paris.", "Paris. \r\n"}]
        # One of the two spellings stands for both, against each of the other two responses.
        assert len(left) == 3 and len(kept) == 2
        assert {"Rome.", "Paris, not Rome."} in left

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("for x in y:\n    f(x)\n    return", "for x in y:\n    f(x)\nreturn"),
            ("a haiku\nin lines", "a haiku in lines"),
            ("Yes.", "YES."),
        ],
    )
    def test_indentation_lines_and_case_are_worth_a_vote(
        self, db: Database, path: Path, one: str, other: str
    ) -> None:
        add_prompt(db, user("Write."), [one, other])
        candidates = self.pool(db, path)
        vectors = candidates.pool.response_vectors
        assert vectors[0] @ vectors[1] > NEAR_DUPLICATES
        assert (candidates.n_redundant, candidates.pool.n_eligible) == (0, 1)

    def test_a_word_that_the_encoder_overlooks_is_read(self, db: Database, path: Path) -> None:
        add_prompt(db, user("Is 7 prime?"), ["It is prime", "It is not prime"])
        candidates = self.pool(db, path)
        vectors = candidates.pool.response_vectors
        assert vectors[0] @ vectors[1] > NEAR_DUPLICATES
        assert candidates.n_redundant == 0

    def test_one_question_under_two_prompts_is_asked_once(self, db: Database, path: Path) -> None:
        add_prompt(db, user("Which is best?"), ["tea", "coffee", "milk"])
        add_prompt(db, user("Which is  best?\n"), ["coffee", "tea", "water"])
        add_prompt(db, user("Which is not best?"), ["coffee", "tea"])
        add_prompt(db, [{"role": "system", "content": "Which is best?"}], ["coffee", "tea"])
        candidates = self.pool(db, path)
        assert candidates.n_redundant == 1
        asked = questions(db, candidates)
        assert len(asked) == 3 + 3 + 1 + 1 - 1
        twice = [prompt for prompt, texts in asked if texts == {"tea", "coffee"}]
        assert len(twice) == 3

    def test_a_picked_pair_stays_and_its_like_goes(self, db: Database, path: Path) -> None:
        first = add_prompt(db, user("Which is best?"), ["tea", "coffee"])
        last = add_prompt(db, user("which is best?"), ["tea", "coffee"])
        self.pool(db, path)  # embeds
        request = BatchRequest(1, "random", 0.0, 1, seed=3, near_duplicates=1.0)
        before = choose_and_record(db, path, self.encoder_id, request, dry_run=False)
        assert before.head.pool["n_redundant"] == 0
        picked = {before.picks[0].a_id, before.picks[0].b_id}
        assert picked in ({*first}, {*last})
        candidates = build_pool(db, path, self.encoder_id)
        assert candidates.n_redundant == 1
        assert candidates.pool.pair_eligible.tolist() == [False]
        ends = candidates.pool.pair_a[0], candidates.pool.pair_b[0]
        assert {int(candidates.response_ids[end]) for end in ends} == picked

    def test_pairs_that_were_picked_all_stay(self, db: Database, path: Path) -> None:
        for prompt in ("Which is best?", "which is best?"):
            add_prompt(db, user(prompt), ["tea", "coffee", "tea "])
        self.pool(db, path)
        request = BatchRequest(6, "random", 0.0, 1, seed=3, near_duplicates=1.0)
        choose_and_record(db, path, self.encoder_id, request, dry_run=False)
        candidates = build_pool(db, path, self.encoder_id)
        assert (candidates.n_redundant, candidates.pool.n_pairs) == (0, 6)
        assert candidates.pool.n_eligible == 0

    def test_a_threshold_of_one_asks_about_every_pair(self, db: Database, path: Path) -> None:
        add_prompt(db, user("Capital?"), ["Paris.", "Paris. "])
        every = self.pool(db, path, near_duplicates=1.0)
        assert (every.n_redundant, every.pool.n_pairs) == (0, 1)
        none = self.pool(db, path)
        assert (none.n_redundant, none.pool.n_pairs) == (1, 0)
        assert every.snapshot()["fingerprint"] != none.snapshot()["fingerprint"]

    def test_against_all_pairs_read_one_by_one(self, db: Database, path: Path) -> None:
        rng = np.random.default_rng(5)
        words = ["yes", "yes ", "no", " no", "maybe", "maybe\n", "perhaps"]
        for prompt in ("Q1?", "q1?", "Q2?", "Q2? ", "Q3?", "Q4?"):
            texts = rng.choice(words, size=rng.integers(2, 6), replace=False)
            add_prompt(db, user(prompt), texts.tolist())
        every = questions(db, self.pool(db, path, near_duplicates=1.0))
        plain = [
            (" ".join(prompt.lower().split()), frozenset(t.strip() for t in texts))
            for prompt, texts in every
        ]
        # A text that stands once and has no like in its prompt is not read: " no" beside another
        # prompt's "no" may pass, nothing else; so what is left out is never more than this.
        most = len(plain) - len({one for one in plain if len(one[1]) == 2})
        candidates = self.pool(db, path)
        assert 0 < candidates.n_redundant <= most
        kept = questions(db, candidates)
        assert all(len({t.strip() for t in texts}) == 2 for _, texts in kept)
        assert {
            (" ".join(prompt.lower().split()), frozenset(t.strip() for t in texts))
            for prompt, texts in kept
        } == {one for one in plain if len(one[1]) == 2}


def test_the_setting_is_the_default_of_the_rounds() -> None:
    assert RoundSettings().near_duplicates == NEAR_DUPLICATES


def test_dry_run_says_how_many_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real encoder, which does not see white space."""
    project = make_project(tmp_path / "project")
    more = {"prompt": "Sum of 2 and 2?", "responses": ["It is 4.", "It is 4. ", "It is 5."]}
    (project / "more.jsonl").write_text(json.dumps(more) + "\n", encoding="utf-8")
    runner = CliRunner()
    there = ["--project", str(project)]
    assert runner.invoke(main, ["import", str(project / "more.jsonl"), *there]).exit_code == 0
    shown = runner.invoke(main, ["next-batch", "-n", "5", "--dry-run", *there])
    assert "2 pairs that read like another or alike" in shown.output
    monkeypatch.setenv("ANNOTATOR_ROUND_NEAR_DUPLICATES", "1")
    shown = runner.invoke(main, ["next-batch", "-n", "5", "--dry-run", *there])
    assert shown.exit_code == 0 and "left out" not in shown.output
