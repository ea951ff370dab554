"""`annotator route` on real databases: who is covered, what ends it, what is exported."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sqlite_utils import Database

from annotator.budget.account import budget_account
from annotator.budget.certificates import (
    certificates,
    check_certificates,
    first_votes,
    standing,
    void_by_hand,
)
from annotator.budget.opinions import POSTERIOR, opinions_of
from annotator.budget.route import RouteRequest, listed, picked_pairs, route
from annotator.budget.routing import level_of, lower_bound
from annotator.cli import main
from annotator.config import load_settings, template
from annotator.errors import AnnotatorError, RoundError
from annotator.export.formats import FORMS
from annotator.export.machine import machine_labels
from annotator.export.write import export_file, export_stream
from annotator.labels.votes import counted_votes
from annotator.rounds.pool import build_pool
from annotator.signals.embeddings import embed_missing
from annotator.signals.judges.judgements import Judgement, record_judgements
from annotator.store import open_db, writing
from annotator.web.lookup import pair_document
from tests.fake_encoder import FakeEncoder
from tests.routed_world import JUDGE, SURE, UNEVEN, RoutedWorld
from tests.small_world import add_prompt

SIZES = list(UNEVEN) * 30  # 180 prompts, 1,080 pairs


def asked(agree: float = 0.8, source: str = JUDGE, confidence: float = 0.9) -> RouteRequest:
    return RouteRequest(agree, confidence, source, 0.9995)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RoutedWorld:
    """200 control pairs and 200 others, on which people agree with the judge where it is sure."""
    path = tmp_path_factory.mktemp("made") / "annotator.db"
    db = open_db(path, create=True)
    made = RoutedWorld(db, path, SIZES)
    made.choose(400)
    made.agree(0.97)
    made.agree(0.9, arm="acquired")
    db.close()
    return made


@pytest.fixture
def world(made: RoutedWorld, tmp_path: Path) -> Iterator[RoutedWorld]:
    """The same, a copy of one's own."""
    shutil.copytree(made.path.parent, tmp_path / "world")
    mine = copy(made)
    mine.path = tmp_path / "world" / "annotator.db"
    mine.db, mine.score = open_db(mine.path), dict(made.score)
    mine.rng = np.random.default_rng(1)
    yield mine
    mine.db.close()


def looked(world: RoutedWorld, request: RouteRequest | None = None, **how: bool) -> dict[str, Any]:
    how = {"dry_run": False} | how
    return route(world.db, world.path, world.encoder_id, request or asked(), **how)


def pairs_of(db: Database, query: str) -> set[tuple[int, int]]:
    return set(db.execute(query).fetchall())


# What is certified


def test_a_certificate_covers_the_surest_pairs_that_nobody_was_asked_about(
    world: RoutedWorld,
) -> None:
    document = looked(world)
    assert document["outcome"] == "certified"
    (certificate,) = certificates(world.db)
    pool = build_pool(world.db, world.path, world.encoder_id)
    ids = pool.response_ids
    a, b = ids[pool.pool.pair_a], ids[pool.pool.pair_b]
    gap = np.array([world.score[i] - world.score[j] for i, j in zip(a, b, strict=True)])
    above = pool.pool.pair_eligible & (np.abs(gap) >= certificate.threshold)
    expected = {
        (int(i), int(j), "a" if g > 0 else "b")
        for i, j, g in zip(a[above], b[above], gap[above], strict=True)
    }
    found = world.db.execute("SELECT a_id, b_id, label, probability FROM routed").fetchall()
    assert {row[:3] for row in found} == expected
    assert len(found) == certificate.n_pairs == document["covered"] > 300
    taken = pairs_of(world.db, "SELECT a_id, b_id FROM picks")
    assert not taken & {row[:2] for row in found}
    # Surer pairs are likelier, and nothing is certain.
    by_gap = sorted((abs(world.score[i] - world.score[j]), p) for i, j, _, p in found)
    assert [p for _, p in by_gap] == sorted(p for _, p in by_gap)
    assert 0.5 < by_gap[0][1] < by_gap[-1][1] < 1


def test_the_numbers_of_a_certificate_are_those_of_the_votes(world: RoutedWorld) -> None:
    document = looked(world)
    (certificate,) = certificates(world.db)
    rows = world.db.execute(
        """SELECT p.a_id, p.b_id, v.grade FROM picks p JOIN votes v ON v.pick_id = p.id
        WHERE p.arm = 'control' ORDER BY v.id LIMIT 200"""
    ).fetchall()
    above = [
        (world.side(a, b), grade)
        for a, b, grade in rows
        if abs(world.score[a] - world.score[b]) >= certificate.threshold
    ]
    agreed = sum(grade.startswith(side + "_") for side, grade in above)
    assert (certificate.n_calibration, certificate.n_above) == (200, len(above))
    assert certificate.n_agreed == agreed
    (look,) = document["looks"]
    assert look["level"] == pytest.approx(level_of(1, 1, 0.1))
    assert document["tests"][-1]["n"] >= certificate.n_above
    assert certificate.depends["told"] == JUDGE
    assert lower_bound(agreed, len(above), look["level"], certificate.n_pairs) >= 0.8


def test_a_tie_agrees_with_nobody_and_the_first_person_speaks(world: RoutedWorld) -> None:
    before = first_votes(world.db, "control")
    (pick, a, b) = world.db.execute(
        "SELECT id, a_id, b_id FROM picks WHERE arm = 'control' ORDER BY id LIMIT 1"
    ).fetchone()
    other = {1: "b_better", -1: "a_better"}[before[a, b]]
    world.answer({pick: other}, who=2)
    assert first_votes(world.db, "control") == before
    for grade in ("tie", "both_bad"):
        world.db.execute("UPDATE votes SET grade = ? WHERE pick_id = ?", [grade, pick])
        world.db.conn.commit()
        assert first_votes(world.db, "control")[a, b] == 0


def test_ties_do_not_count_for_the_source(world: RoutedWorld) -> None:
    """Every agreement becomes a tie: nothing is certified, though nobody disagrees any more."""
    world.db.execute("UPDATE votes SET grade = 'tie'")
    world.db.conn.commit()
    document = looked(world)
    assert document["outcome"] == "not-certified"
    assert document["tests"][0]["agreed"] == 0


def test_a_look_is_at_the_pairs_that_were_answered_first(db: Database, tmp_path: Path) -> None:
    world = RoutedWorld(db, tmp_path / "annotator.db", SIZES)
    world.choose(240, control=1.0)
    world.agree(1.0, unsure=1.0)
    document = looked(world)
    assert (document["control_votes"], document["look"]["size"]) == (240, 200)
    (certificate,) = certificates(world.db)
    first = [pair for pair, _ in zip(first_votes(world.db, "control"), range(200), strict=False)]
    above = [abs(world.score[a] - world.score[b]) >= certificate.threshold for a, b in first]
    assert certificate.n_above == sum(above)
    assert standing(world.db, certificate).n > certificate.n_above  # all 240, at every check


def test_a_skip_and_a_submitted_machine_answer_are_no_votes(world: RoutedWorld) -> None:
    picks = [row[0] for row in world.db.execute("SELECT id FROM picks WHERE arm = 'control'")]
    with writing(world.db):
        world.db.execute(
            "UPDATE votes SET status = 'skip', grade = NULL WHERE pick_id = ?", picks[:1]
        )
        world.db.execute("UPDATE votes SET prefilled = 1 WHERE pick_id = ?", picks[1:2])
    control = picked_pairs(world.db, "control")
    assert (len(control), int(control.answered.sum())) == (200, 198)


def test_a_judge_that_people_do_not_agree_with_is_not_certified(
    db: Database, tmp_path: Path
) -> None:
    world = RoutedWorld(db, tmp_path / "annotator.db", SIZES)
    world.choose(400)
    world.agree(0.75)
    world.agree(0.75, arm="acquired")
    document = looked(world)
    assert document["outcome"] == "not-certified"
    assert (document["certificate"], document["needed"]) == (None, None)
    assert world.db.execute("SELECT count(*) FROM routed").fetchone() == (0,)
    assert [look["certificate_id"] for look in document["looks"]] == [None]


def test_before_the_first_look_nothing_is_looked_at(db: Database, tmp_path: Path) -> None:
    world = RoutedWorld(db, tmp_path / "annotator.db", SIZES)
    world.choose(198)
    world.agree(1.0)
    document = looked(world)
    assert (document["outcome"], document["control_votes"]) == ("too-few", 99)
    assert document["next_look"] == 100
    assert world.db.execute("SELECT count(*) FROM routing_looks").fetchone() == (0,)


def test_a_judges_pairs_go_before_its_scores_and_doubt_covers_nothing(world: RoutedWorld) -> None:
    control = picked_pairs(world.db, "control")
    pool = build_pool(world.db, world.path, world.encoder_id)
    ids = pool.response_ids
    every = set(zip(ids[pool.pool.pair_a].tolist(), ids[pool.pool.pair_b].tolist(), strict=True))
    judgements = {}
    for a, b in every:
        p_low = 0.9 if world.side(min(a, b), max(a, b)) == "a" else 0.1
        judgements[a, b] = Judgement(min(a, b), max(a, b), p_low, None, False)
    doubted = sorted(every)[::9]
    for a, b in doubted:
        judgements[a, b] = Judgement(min(a, b), max(a, b), 0.5, None, True)
    with writing(world.db):
        record_judgements(world.db, JUDGE, judgements.values())
    found = opinions_of(world.db, world.path, world.encoder_id, JUDGE, control.a_ids, control.b_ids)
    sides = [
        0 if (a, b) in doubted else (1 if world.side(a, b) == "a" else -1)
        for a, b in zip(control.a_ids.tolist(), control.b_ids.tolist(), strict=True)
    ]
    assert found.side.tolist() == sides
    turned = opinions_of(
        world.db, world.path, world.encoder_id, JUDGE, control.b_ids, control.a_ids
    )
    assert turned.side.tolist() == [-side for side in sides]
    assert np.isnan(found.confidence[found.side == 0]).all()
    document = looked(world, asked())
    # Equally sure of all: everything or nothing, and the doubted never.
    assert document["pool_with_opinion"] < document["pool"]
    assert document["covered"] in (0, document["pool_with_opinion"])
    routed = pairs_of(world.db, "SELECT a_id, b_id FROM routed")
    assert not routed & set(doubted)


def test_the_posterior_does_not_know_a_control_pairs_own_vote(db: Database, tmp_path: Path) -> None:
    """Votes by lot on made-up vectors: whoever knows them agrees always, who does not, half."""
    world = RoutedWorld(db, tmp_path / "annotator.db", [2] * 300, seed=3)
    world.choose(240, control=0.5)
    lot = np.random.default_rng(8)
    world.answer({pick: lot.choice(["a_better", "b_better"]) for pick, _, _ in world.unanswered()})
    control = picked_pairs(world.db, "control")
    found = opinions_of(
        world.db, world.path, world.encoder_id, POSTERIOR, control.a_ids, control.b_ids
    )
    agreed = float((found.side == control.said).mean())
    assert 0.36 < agreed < 0.64
    assert len(counted_votes(world.db)) == 120


# Looks


def test_the_same_look_is_taken_once(world: RoutedWorld) -> None:
    first = looked(world)
    again = looked(world)
    assert again["outcome"] == "looked-before"
    assert again["certificate"] == first["certificate"] == 1
    assert again["next_look"] == 400
    assert world.db.execute("SELECT count(*) FROM routing_looks").fetchone() == (1,)


def test_the_posterior_is_not_tried_again_when_only_other_votes_came(world: RoutedWorld) -> None:
    looked(world, asked(source=POSTERIOR))
    world.choose(40, control=0.0, seed=9)
    world.agree(0.5, arm="acquired")
    assert looked(world, asked(source=POSTERIOR))["outcome"] == "looked-before"


def test_every_promise_that_is_tried_takes_its_part_of_the_chance(world: RoutedWorld) -> None:
    requests = [asked(0.9), asked(0.85), asked(0.7, POSTERIOR), asked(0.8, JUDGE, 0.95)]
    documents = [looked(world, request) for request in requests]
    assert [document["promise"] for document in documents] == [1, 2, 3, 4]
    rows = world.db.execute("SELECT promise, n_calibration, level FROM routing_looks").fetchall()
    for promise, n, level in rows:
        delta = 0.05 if promise == 4 else 0.1
        assert n == 200
        assert level == pytest.approx(level_of(1, promise, delta))


def test_a_dry_run_looks_at_no_vote_and_records_nothing(world: RoutedWorld) -> None:
    before = looked(world, dry_run=True)
    world.db.execute("UPDATE votes SET grade = 'tie'")
    world.db.conn.commit()
    assert looked(world, dry_run=True) == before
    assert before["outcome"] == "dry-run"
    assert len(before["grid"]) > 10
    for table in ("routing_looks", "certificates", "routed"):
        assert world.db[table].count == 0


def test_a_later_look_takes_the_place_of_an_earlier_certificate(
    db: Database, tmp_path: Path
) -> None:
    world = RoutedWorld(db, tmp_path / "annotator.db", SIZES)
    world.choose(200, control=1.0)
    world.agree(0.93)
    first = looked(world)
    world.choose(210, control=1.0, seed=6)
    world.agree(0.97)
    second = looked(world)
    assert (first["outcome"], second["outcome"]) == ("certified", "certified")
    old, new = certificates(world.db)
    assert old.void_because == "certificate 2 took its place"
    assert (new.n_calibration, new.void_at) == (400, None)


@pytest.fixture
def two(db: Database, tmp_path: Path) -> RoutedWorld:
    """450 control pairs: people agree with the judge always where it is sure, else with 62 %."""
    world = RoutedWorld(db, tmp_path / "annotator.db", list(UNEVEN) * 60)
    world.choose(500, control=0.9)
    world.agree(1.0, unsure=0.62)
    return world


def exported_truth(world: RoutedWorld) -> dict[int, float]:
    """Certificate -> how often people agree with its rows, known of this world."""
    shares: dict[int, list[float]] = {}
    ids = dict(world.db.execute("SELECT response_key, id FROM responses").fetchall())
    for row in machine_labels(world.db):
        a, b = (world.score[ids[shown.response_key]] for shown in (row.a, row.b))
        shares.setdefault(row.certificate, []).append(1.0 if abs(a - b) > SURE else 0.62)
    return {one: float(np.mean(found)) for one, found in shares.items()}


@pytest.mark.parametrize("order", [(0.82, 0.95), (0.95, 0.82)])
def test_what_a_second_certificate_leaves_of_the_first_is_not_exported_under_its_promise(
    two: RoutedWorld, order: tuple[float, float]
) -> None:
    documents = [looked(two, asked(agree)) for agree in order]
    assert [document["outcome"] for document in documents] == ["certified"] * 2
    assert [document["replaced"] for document in documents] == [[], [1]]
    agree = {one.id: one.agree for one in certificates(two.db)}
    truth = exported_truth(two)
    assert set(truth) == {2}
    assert all(share >= agree[one] for one, share in truth.items())
    assert len(list(machine_labels(two.db))) == certificates(two.db)[1].n_pairs
    assert certificates(two.db)[0].void_because == "certificate 2 took its place"
    routed = build_pool(two.db, two.path, two.encoder_id).routed.sum()
    assert routed == certificates(two.db)[1].n_pairs


def test_an_older_certificate_that_shares_pairs_ends_at_the_next_check(two: RoutedWorld) -> None:
    """As a database may have it that was written before a new one ended the older."""
    looked(two, asked(0.82))
    looked(two, asked(0.95))
    with writing(two.db):
        two.db.execute("UPDATE certificates SET void_at = NULL, void_because = NULL")
    assert reasons(two) == ["certificate 2 took its place"]
    assert [one.id for one in certificates(two.db, in_force=True)] == [2]


def test_certificates_of_other_pairs_stay_beside_each_other(two: RoutedWorld) -> None:
    looked(two, asked(0.82))
    with writing(two.db):
        two.db.execute("DELETE FROM routed WHERE certificate_id = 1")
        two.db.execute(
            "INSERT INTO routed SELECT 1, a_id, b_id, 'a', 0.9 FROM picks WHERE arm = 'acquired'"
        )
    assert looked(two, asked(0.95))["replaced"] == []
    assert [one.id for one in certificates(two.db, in_force=True)] == [1, 2]


def test_pairs_that_were_imported_later_are_not_promised(world: RoutedWorld) -> None:
    known = world.db.execute("SELECT max(id) FROM responses").fetchone()[0]
    add_prompts_again(world)
    world.judge_new()
    document = looked(world)
    assert document["newer_pairs"] == 60
    assert document["outcome"] == "certified"
    newest = world.db.execute("SELECT max(max(a_id, b_id)) FROM routed").fetchone()[0]
    assert newest <= known


def add_prompts_again(world: RoutedWorld) -> None:
    for i in range(10):
        messages = [{"role": "user", "content": f"later question {i}"}]
        add_prompt(world.db, messages, [f"later answer {j} to {i}" for j in range(4)])
    embed_missing(world.db, FakeEncoder(), world.path)


def test_nothing_is_left_to_certify(db: Database, tmp_path: Path) -> None:
    world = RoutedWorld(db, tmp_path / "annotator.db", [2, 3])
    world.choose(4)
    with pytest.raises(RoundError, match="every pair of the pool"):
        looked(world)


def test_there_is_no_posterior_without_votes(db: Database, tmp_path: Path) -> None:
    world = RoutedWorld(db, tmp_path / "annotator.db", SIZES)
    world.choose(10)
    with pytest.raises(RoundError, match="nobody has voted"):
        looked(world, asked(source=POSTERIOR))


# Batches


def test_a_strategy_is_not_offered_what_is_routed_and_control_is(world: RoutedWorld) -> None:
    looked(world)
    routed = pairs_of(world.db, "SELECT a_id, b_id FROM routed")
    pool = build_pool(world.db, world.path, world.encoder_id)
    assert pool.snapshot()["n_routed"] == len(routed)
    left = pool.pool.n_eligible
    world.choose(100, strategy="real-easy", control=0.5, seed=11)
    acquired = pairs_of(
        world.db, "SELECT a_id, b_id FROM picks WHERE arm = 'acquired' AND round_id = 2"
    )
    control = pairs_of(
        world.db, "SELECT a_id, b_id FROM picks WHERE arm = 'control' AND round_id = 2"
    )
    assert not acquired & routed
    # 50 of `left` drawn uniformly: far within four deviations of their share.
    share = len(routed) / left
    assert abs(len(control & routed) - 50 * share) < 4 * np.sqrt(50 * share * (1 - share))


def test_a_strategys_propensities_stay_those_of_its_own_draw(world: RoutedWorld) -> None:
    looked(world)
    pool = build_pool(world.db, world.path, world.encoder_id)
    world.choose(60, strategy="random", control=0.5, seed=4)
    rows = world.db.execute("SELECT arm, propensity FROM picks WHERE round_id = 2").fetchall()
    by_arm = {arm: {round(p, 12) for a, p in rows if a == arm} for arm in ("acquired", "control")}
    (control,) = by_arm["control"]
    assert control == pytest.approx(30 / pool.pool.n_eligible)


def test_a_batch_ends_where_nothing_needs_a_person_and_control_goes_on(world: RoutedWorld) -> None:
    looked(world)
    pool = build_pool(world.db, world.path, world.encoder_id)
    left = pool.n_left_to_strategies
    assert 40 < left < pool.pool.n_eligible - 40
    batch = world.choose(left + 30, control=0.1, seed=2)
    n_control = round((left + 30) * 0.1)
    assert (batch.head.n_control, batch.head.n_acquired) == (n_control, left - n_control)
    assert "30 places stay empty" in batch.notes[0]
    left = build_pool(world.db, world.path, world.encoder_id).n_left_to_strategies
    batch = world.choose(left, control=0.1, seed=2)
    assert not batch.notes
    # The last that need a person are those that the control arm might have drawn and did not.
    for _ in range(20):
        batch = world.choose(40, control=0.25, seed=3)
        if batch.head.n_acquired == 0:
            break
    assert (batch.head.n_control, batch.head.n_acquired) == (10, 0)


def test_a_void_certificate_gives_its_pairs_back(world: RoutedWorld) -> None:
    looked(world)
    void_by_hand(world.db, 1)
    pool = build_pool(world.db, world.path, world.encoder_id)
    assert not pool.routed.any()
    assert "n_routed" not in pool.snapshot()
    assert world.db["routed"].count > 0
    with pytest.raises(RoundError, match="is void already: by hand"):
        void_by_hand(world.db, 1)
    with pytest.raises(RoundError, match="does not exist"):
        void_by_hand(world.db, 7)


# What ends a certificate


def reasons(world: RoutedWorld, encoder_id: int | None = None) -> list[str]:
    ended = check_certificates(world.db, encoder_id or world.encoder_id)
    return [because for _, because in ended]


def test_nothing_ends_it_while_nothing_changes(world: RoutedWorld) -> None:
    looked(world)
    assert reasons(world) == []
    world.choose(50, control=0.5, seed=3)
    world.agree(0.97)
    assert reasons(world) == []


def test_another_encoder_ends_it(world: RoutedWorld) -> None:
    looked(world)
    other = embed_missing(world.db, FakeEncoder(fingerprint="weights-2"), world.path).encoder_id
    (because,) = reasons(world, other)
    assert because.startswith("the encoder is fake (weights-2")
    assert certificates(world.db)[0].void_because == because
    assert reasons(world, other) == []


def test_another_judge_ends_it(world: RoutedWorld) -> None:
    looked(world)
    world.judge(JUDGE.replace("helpful-v1", "helpful-v2"))
    (because,) = reasons(world)
    assert "judge that the project goes by" in because


def test_scores_recorded_anew_end_it_and_scores_of_new_responses_do_not(
    world: RoutedWorld,
) -> None:
    looked(world)
    add_prompts_again(world)
    world.judge_new()
    assert reasons(world) == []
    world.judge(JUDGE)
    assert reasons(world) == [f"{JUDGE} was recorded anew"]


def test_another_model_ends_the_posteriors(
    world: RoutedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked(world, asked(0.7, POSTERIOR))
    assert len(certificates(world.db)) == 1
    world.choose(20, control=0.0, seed=3)
    world.agree(1.0, arm="acquired")  # new votes are no new model
    assert reasons(world) == []
    monkeypatch.setattr("annotator.preference.learner.VERSION", "another")
    (because,) = reasons(world)
    assert because.startswith("the model is learner another")


def test_control_votes_that_bear_it_out_no_more_end_it(world: RoutedWorld) -> None:
    looked(world)
    (certificate,) = certificates(world.db)
    before = standing(world.db, certificate)
    assert (before.n, before.agreed) == (certificate.n_above, certificate.n_agreed)
    world.choose(120, control=1.0, seed=3)
    world.agree(0.2)
    after = standing(world.db, certificate)
    # Brute force: what people said of the pairs that it covers, and of those it was made on.
    said = first_votes(world.db, "control")
    heard = [
        (world.side(a, b), side)
        for (a, b), side in said.items()
        if abs(world.score[a] - world.score[b]) >= certificate.threshold
    ]
    agreed = sum({"a": 1, "b": -1}[side] == vote for side, vote in heard)
    assert (after.n, after.agreed) == (len(heard), agreed)
    assert after.n > before.n
    (because,) = reasons(world)
    assert f"of {after.n} control votes on such pairs {agreed} agree" in because


def test_a_vote_that_is_changed_later_counts_as_it_is_now(world: RoutedWorld) -> None:
    looked(world)
    with writing(world.db):
        world.db.execute("UPDATE votes SET grade = 'tie'")
    (because,) = reasons(world)
    assert "0 agree" in because


def test_the_account_leaves_out_what_the_next_use_will_end_and_writes_nothing(
    folder: Path, world: RoutedWorld
) -> None:
    looked(world)
    settings = load_settings(folder, {})
    before = budget_account(world.db, world.path, settings)
    assert before["spared"]["routing"]["pairs"] == world.db["routed"].count
    assert before["certificates"][0]["void_because"] is None
    world.judge(JUDGE)  # recorded anew, with other scores
    after = budget_account(world.db, world.path, settings)
    assert after["spared"]["routing"] is None
    assert after["certificates"][0]["void_because"] == f"{JUDGE} was recorded anew"
    assert [one.void_at for one in certificates(world.db)] == [None]


def test_the_account_promises_no_more_than_the_weakest_of_several(
    folder: Path, world: RoutedWorld
) -> None:
    looked(world, asked(0.8, confidence=0.95))
    copied_certificate(world, 2)
    with writing(world.db):
        world.db.execute("UPDATE certificates SET agree = 0.85, confidence = 0.9 WHERE id = 2")
    found = budget_account(world.db, world.path, load_settings(folder, {}))["spared"]["routing"]
    assert (found["error"], found["confidence"]) == (0.2, 0.9)
    assert "at least 80 %" in found["guarantee"]
    assert "probability 10 %" in found["guarantee"]


def copied_certificate(world: RoutedWorld, number: int) -> None:
    """Certificate 1 once more, with no pairs."""
    columns = ", ".join(name for name in world.db["certificates"].columns_dict if name != "id")
    with writing(world.db):
        world.db.execute(
            f"INSERT INTO certificates (id, {columns}) SELECT ?, {columns} FROM certificates",
            [number],
        )


# Exports


def rows_of(db: Database, name: str = "trl", **how: bool) -> list[dict[str, Any]]:
    stream = io.StringIO()
    export_stream(db, name, stream, **how)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_machine_labels_are_exported_only_when_asked_for(world: RoutedWorld) -> None:
    before = rows_of(world.db)
    looked(world)
    assert rows_of(world.db) == before
    assert {row["label_source"] for row in before} == {"human"}
    assert all("certificate" not in row for row in before)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_machine_row_says_what_it_is_and_what_is_promised(
    world: RoutedWorld, tmp_path: Path, name: str
) -> None:
    looked(world)
    (certificate,) = certificates(world.db)
    rows = rows_of(world.db, name, by_machines=True)
    assert {frozenset(row) for row in rows} == {frozenset(rows[0])}
    machine = [row for row in rows if row["label_source"] != "human"]
    assert len(machine) == certificate.n_pairs
    for row in machine:
        assert row["label_source"] == JUDGE
        assert (row["certificate"], row["certified_agree"]) == (1, 0.8)
        assert row["certified_confidence"] == 0.9
        assert row["guarantee"] == (
            "of the votes that people would cast on its pairs at least 80 % agree with it; false "
            "with probability 10 % at most"
        )
        assert (row["n_votes"], row["annotators"], row["arm"], row["round"]) == (0, [], None, None)
        assert 0 < row["probability"] < 1
    people = [row for row in rows if row["label_source"] == "human"]
    assert all(row["certificate"] is None for row in people)
    assert not {row["pair_key"] for row in people} & {row["pair_key"] for row in machine}
    for ending in (".parquet", ".jsonl.gz"):
        report = export_file(world.db, name, tmp_path / f"out{ending}", by_machines=True)
        assert report.machine == Counter({1: len(machine)})
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == rows


def test_the_machines_choice_is_the_judges(world: RoutedWorld) -> None:
    looked(world)
    text = dict(world.db.execute("SELECT id, text FROM responses").fetchall())
    score = {text[i]: score for i, score in world.score.items()}
    machine = [row for row in rows_of(world.db, by_machines=True) if row["label_source"] != "human"]
    assert machine
    assert all(score[row["chosen"]] > score[row["rejected"]] for row in machine)


def test_hashed_names_and_groups_of_machines_alone_fit_one_parquet_file(
    world: RoutedWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked(world)
    monkeypatch.setattr("annotator.export.write.ROWS_PER_GROUP", 50)
    path = tmp_path / "out.parquet"
    report = export_file(world.db, "trl", path, hash_annotators=True, by_machines=True)
    table = pq.read_table(path).to_pylist()
    assert len(table) == report.rows
    assert isinstance(table[0]["annotators"][0], str)
    assert table[-1]["annotators"] == []


def test_a_persons_vote_goes_before_a_machines_label(world: RoutedWorld) -> None:
    looked(world)
    world.choose(60, control=1.0, seed=3)
    waiting = rows_of(world.db, by_machines=True)
    picks = world.unanswered()
    routed = pairs_of(world.db, "SELECT a_id, b_id FROM routed")
    both = [pick for pick in picks if pick[1:] in routed]
    assert both
    against = {pick: {"a": "b_better", "b": "a_better"}[world.side(a, b)] for pick, a, b in both}
    world.answer(against)
    rows = rows_of(world.db, by_machines=True)
    assert len(rows) == len(waiting)
    human = Counter(row["label_source"] == "human" for row in rows)
    assert human[False] == Counter(row["label_source"] == "human" for row in waiting)[False] - len(
        both
    )


def test_labels_of_a_void_certificate_are_left_out_and_counted(
    world: RoutedWorld, tmp_path: Path
) -> None:
    looked(world)
    n = world.db["routed"].count
    void_by_hand(world.db, 1)
    report = export_file(world.db, "trl", tmp_path / "out.jsonl", by_machines=True)
    assert (report.machine, report.void) == (Counter(), Counter({1: n}))
    assert all(row["label_source"] == "human" for row in rows_of(world.db, by_machines=True))


def test_machine_labels_are_no_votes(world: RoutedWorld) -> None:
    votes, exported = len(counted_votes(world.db)), rows_of(world.db, "votes")
    looked(world)
    assert len(counted_votes(world.db)) == votes
    assert rows_of(world.db, "votes") == exported
    assert len(picked_pairs(world.db, "control")) == 200


# The command


@pytest.fixture
def folder(world: RoutedWorld, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The world as a project whose encoder is the made-up one."""
    folder = world.path.parent
    (folder / "annotator.toml").write_text(template("routed"), encoding="utf-8")
    # By its name the package has the command, not the module.
    module = sys.modules["annotator.cli.route"]
    monkeypatch.setattr(module, "embed_first", lambda project: world.encoder_id)
    return folder


def called(folder: Path, *words: str) -> Any:
    return CliRunner().invoke(main, [*words, "--project", str(folder)])


def test_the_command_certifies_lists_exports_and_ends(folder: Path, world: RoutedWorld) -> None:
    said = called(folder, "route")
    assert "no certificate yet" in said.output
    said = called(folder, "route", "--agree", "0.8", "--source", "judge", "--dry-run")
    assert "no vote was looked at" in said.output
    said = called(folder, "route", "--agree", "0.8", "--source", "judge")
    assert said.exit_code == 0, said.output
    assert "need no person: certificate 1" in said.output
    assert "false with probability 10 % at most" in said.output
    said = called(folder, "route", "--agree", "0.8", "--source", "judge")
    assert "at 200 control pairs already" in said.output
    assert "in force" in said.output
    document = json.loads(called(folder, "route", "--json").output)
    assert document["certificates"][0]["void_at"] is None
    out = folder / "out.jsonl"
    said = called(folder, "export", "--machine-labels", "--out", str(out))
    assert said.exit_code == 0, said.output
    assert "certificate 1: of the votes that people would cast" in said.output
    said = called(folder, "route", "--void", "1")
    assert "need people again" in said.output
    said = called(folder, "export", "--machine-labels", "--out", str(out))
    assert "which is void: by hand" in said.output
    said = called(folder, "route")
    assert "void since" in said.output


def test_an_export_ends_what_has_no_ground_any_more_first(folder: Path, world: RoutedWorld) -> None:
    looked(world)
    world.judge(JUDGE.replace("helpful-v1", "helpful-v2"))
    said = called(folder, "export", "--machine-labels", "--json", "--out", str(folder / "o.jsonl"))
    assert said.exit_code == 0, said.output
    assert "certificate 1 is void" in said.stderr
    document = json.loads(said.stdout)
    assert document["machine_labels"]["rows"] == {}
    assert document["machine_labels"]["void"]["1"] > 0


def test_whoever_certifies_a_judge_is_told_when_that_holds(
    folder: Path, world: RoutedWorld
) -> None:
    said = called(folder, "route", "--agree", "0.8", "--source", "judge", "--dry-run").output
    assert "named without looking at how control votes agree with it" in said
    said = called(folder, "route", "--agree", "0.7").output
    assert "need no person: certificate 1" in said
    assert "named without looking" not in said
    said = called(folder, "route", "--agree", "0.8", "--source", "judge").output
    assert "named without looking at how control votes agree with it" in said
    assert "certificate 1, void now" in said


# The page of a pair


def test_a_pairs_page_shows_the_certificate_in_force_and_no_machine_beside_a_person(
    world: RoutedWorld,
) -> None:
    looked(world)
    pair = world.db.execute("SELECT a_id, b_id, label FROM routed LIMIT 1").fetchone()
    a, b, label = pair
    copied_certificate(world, 2)
    with writing(world.db):
        world.db.execute("INSERT INTO routed VALUES (2, ?, ?, ?, 0.6)", pair)
    void_by_hand(world.db, 2)
    found = pair_document(world.db, a, b)["machine"]
    assert (found["certificate"], found["label"], found["void_at"]) == (1, label, None)
    void_by_hand(world.db, 1)
    assert pair_document(world.db, a, b)["machine"]["certificate"] == 2
    world.choose(400, control=1.0, seed=3)
    (pick, a, b) = next(
        row
        for row in world.unanswered()
        if row[1:] in pairs_of(world.db, "SELECT a_id, b_id FROM routed WHERE certificate_id = 1")
    )
    assert pair_document(world.db, a, b)["machine"]["certificate"] == 1
    world.answer({pick: "tie"})
    assert pair_document(world.db, a, b)["machine"] is None


@pytest.mark.parametrize(
    "words",
    [
        ("route", "--void", "1", "--agree", "0.8"),
        ("route", "--source", "judge"),
        ("route", "--agree", "1.2"),
        ("export", "--machine-labels", "--format", "votes", "--out", "-"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, words: tuple[str, ...]) -> None:
    assert called(folder, *words).exit_code == 2


def test_json_holds_no_nan(world: RoutedWorld) -> None:
    json.dumps([looked(world, asked(0.9, POSTERIOR)), listed(world.db)], allow_nan=False)


def test_a_judge_that_says_nothing_here_is_an_error(world: RoutedWorld) -> None:
    with pytest.raises(AnnotatorError, match="takes a side on none"):
        looked(world, asked(source="judge:rubric:nobody@h:x:1"))
