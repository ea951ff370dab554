"""`route`: look at the control votes, certify a source from some confidence on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotator.budget.certificates import (
    LABELS,
    Certificate,
    Look,
    certificates,
    check_certificates,
    first_votes,
    looks_at,
    record_certificate,
    record_look,
    standing,
    took_its_place,
    void,
)
from annotator.budget.opinions import POSTERIOR, depends_on, opinions_of, recorded_by
from annotator.budget.routing import (
    Calibration,
    LabelsNeeded,
    Taken,
    Test,
    bears_out,
    certify,
    fewest_pairs,
    labels_needed,
    level_of,
    look_due,
    look_size,
    thresholds,
)
from annotator.errors import RoundError
from annotator.export.machine import guarantee
from annotator.labels.consensus_store import newest_vote
from annotator.rounds.pool import CandidatePool, build_pool
from annotator.signals.scores import PEER_AGREEMENT, method_in_words, method_named
from annotator.store import hold_lock, now, writing

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sqlite_utils import Database

    from strategies.within_prompt import Bools, Floats, Positions

    Ids = NDArray[np.int64]

Document = dict[str, Any]


@dataclass(frozen=True)
class RouteRequest:
    """What is to be promised: of the pairs that `source` labels people agree with `agree` at least,
    with probability `confidence`. `near_duplicates` as for a batch."""

    agree: float
    confidence: float
    source: str
    near_duplicates: float

    @property
    def delta(self) -> float:
        """The chance of being wrong."""
        return 1.0 - self.confidence


@dataclass(frozen=True, eq=False)
class Picked:
    """Pairs that rounds have picked for one arm, (n,) each, those answered first in that order.

    `said` 1 where the first vote is for a, -1 for b, 0 for neither; `answered` whether there is a
    vote; `round` that picked it.
    """

    a_ids: Ids
    b_ids: Ids
    round: Positions
    said: Positions
    answered: Bools

    def __len__(self) -> int:
        return len(self.a_ids)

    def take(self, rows: Positions | Bools) -> Picked:
        """The same of these pairs."""
        return Picked(*(column[rows] for column in vars(self).values()))


def picked_pairs(db: Database, arm: str) -> Picked:
    """All pairs that were picked for that arm, and what the first person said of each."""
    said = first_votes(db, arm)
    place = {pair: i for i, pair in enumerate(said)}
    query = "SELECT a_id, b_id, round_id FROM picks WHERE arm = ? ORDER BY id"
    rows = sorted(
        db.execute(query, [arm]).fetchall(), key=lambda row: place.get((row[0], row[1]), len(place))
    )
    a, b, rounds = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    answers = [said.get((row[0], row[1])) for row in rows]
    return Picked(
        a,
        b,
        rounds,
        np.array([answer or 0 for answer in answers], dtype=np.int64),
        np.array([answer is not None for answer in answers], dtype=np.bool_),
    )


@dataclass(frozen=True, eq=False)
class Ground:
    """What a promise is about and what it is tested on.

    The pairs to be covered, (n_pairs,) ids; the control pairs and those that strategies took, all
    of responses that were there when the control pairs were drawn. `n_newer` pairs of the pool were
    not, so no control vote speaks for them.
    """

    a_ids: Ids
    b_ids: Ids
    control: Picked
    acquired: Picked
    n_newer: int


def ground_of(db: Database, candidates: CandidatePool) -> Ground:
    """The pairs that control votes can speak for.

    Control pairs are drawn from the pool of their round. What was imported later was not in it, so
    the promise is for pairs of responses that every calibration round knew. Which rounds those are
    is chosen without a look at votes: as many answered control pairs times pairs covered as can be.
    """
    pool, ids = candidates.pool, candidates.response_ids
    a_ids, b_ids = ids[pool.pair_a], ids[pool.pair_b]
    open_pair = pool.pair_eligible
    control, acquired = picked_pairs(db, "control"), picked_pairs(db, "acquired")
    newest_known = _newest_known(db, ids)
    newest = np.maximum(a_ids, b_ids)[open_pair]
    of_control = np.maximum(control.a_ids, control.b_ids)
    drawn_from = np.array([newest_known[i] for i in control.round.tolist()], dtype=np.int64)
    best, limit = -1, int(ids.max(initial=0))
    for known in np.unique(drawn_from[control.answered]).tolist():
        usable = control.answered & (drawn_from >= known) & (of_control <= known)
        worth = int(np.count_nonzero(usable)) * int(np.count_nonzero(newest <= known))
        if worth >= best:
            best, limit = worth, known
    within = open_pair & (np.maximum(a_ids, b_ids) <= limit)
    return Ground(
        a_ids[within],
        b_ids[within],
        control.take((drawn_from >= limit) & (of_control <= limit)),
        acquired.take(np.maximum(acquired.a_ids, acquired.b_ids) <= limit),
        int(np.count_nonzero(newest > limit)),
    )


def _newest_known(db: Database, response_ids: Ids) -> dict[int, int]:
    """Round -> the newest response that its pool had: candidates are only ever added, in order."""
    ids = np.sort(response_ids)
    rows = db.execute("SELECT id, json_extract(pool, '$.n_responses') FROM rounds")
    return {round_id: int(ids[min(n or len(ids), len(ids)) - 1]) for round_id, n in rows.fetchall()}


class Evidence:
    """A source's opinions on the ground, and what people said there."""

    def __init__(
        self, db: Database, database_path: Path, encoder_id: int, source: str, ground: Ground
    ) -> None:
        self.ground = ground
        control, acquired = ground.control, ground.acquired
        a = np.concatenate((ground.a_ids, control.a_ids, acquired.a_ids))
        b = np.concatenate((ground.b_ids, control.b_ids, acquired.b_ids))
        found = opinions_of(db, database_path, encoder_id, source, a, b)
        n, m = len(ground.a_ids), len(ground.a_ids) + len(control)
        self.pool, self.of_control, self.of_acquired = (
            found.take(slice(0, n)), found.take(slice(n, m)), found.take(slice(m, None)),
        )  # fmt: skip

    @cached_property
    def calibration(self) -> Calibration:
        """The answered control pairs on which the source takes a side, the first answered first."""
        control, opinions = self.ground.control, self.of_control
        rows = np.flatnonzero(control.answered & (opinions.side != 0))
        agreed = control.said[rows] == opinions.side[rows]
        return Calibration(opinions.confidence[rows], agreed, control.round[rows])

    @cached_property
    def taken(self) -> Taken:
        """What strategies have taken out of the pool."""
        acquired, opinions = self.ground.acquired, self.of_acquired
        rows = np.flatnonzero(opinions.side != 0)
        agreed = (acquired.said == opinions.side) | ~acquired.answered
        return Taken(
            opinions.confidence[rows], agreed[rows].astype(np.float64), acquired.round[rows]
        )

    def probability(self) -> Floats:
        """Of the pool's pairs, that a person's vote is for the source's side, (n_pairs,).

        As the source says; where it says none, a logistic function of the confidence whose slope
        is fitted to the calibration votes. It orders pairs as the confidence does, and nothing that
        is promised rests on it.
        """
        from annotator.signals.judges.calibration import logistic, slope
        from annotator.signals.judges.trust import Verdicts

        if not np.isnan(self.pool.probability[self.pool.side != 0]).any():
            return self.pool.probability
        votes = self.calibration
        people = np.where(votes.agreed, 1, -1)
        one_prompt = np.zeros(len(votes), dtype=np.int64)
        fitted = slope(Verdicts(1, one_prompt, people, votes.confidence))
        return logistic(fitted * self.pool.confidence)


def source_named(db: Database, name: str) -> str:
    """The source that is meant: posterior, or the method of a judge's scores. Raises ScoreError."""
    return POSTERIOR if name == POSTERIOR else method_named(db, name)


def source_in_words(source: str, encoder: str | None = None) -> str:
    """What labels, so said that nobody takes it for a person."""
    if source == PEER_AGREEMENT and encoder is None:
        return "peer agreement, which is no judge"
    return "the posterior" if source == POSTERIOR else method_in_words(source, encoder)


def route(
    db: Database, database_path: Path, encoder_id: int, request: RouteRequest, *, dry_run: bool
) -> Document:
    """What came of a look at the control votes, as a document that JSON can hold.

    `outcome` is certified, not-certified, too-few (no look is due yet), looked-before (the newest
    look has been taken, whatever came of it), or dry-run, which looks at no vote and records
    nothing. A new certificate ends older ones of the same promise and those that share a pair with
    it: `replaced`. Raises RoundError where there is nothing to certify, PreferenceError and
    EncoderError.
    """
    lock = database_path.with_name(f"{database_path.name}.choose.lock")
    with hold_lock(lock, "certifying"):
        if not dry_run:
            check_certificates(db, encoder_id)
        candidates = build_pool(
            db, database_path, encoder_id, near_duplicates=request.near_duplicates
        )
        ground = ground_of(db, candidates)
        if not len(ground.a_ids):
            raise RoundError(
                "every pair of the pool has been asked about",
                expected="pairs that nobody has been asked about",
                todo="import more candidates",
            )
        evidence = Evidence(db, database_path, encoder_id, request.source, ground)
        return _Attempt(db, encoder_id, request, evidence).document(dry_run=dry_run)


class _Attempt:
    """One run: which look is due, what it says, and how to say so."""

    def __init__(
        self, db: Database, encoder_id: int, request: RouteRequest, evidence: Evidence
    ) -> None:
        self.db, self.request, self.evidence = db, request, evidence
        self.depends = depends_on(db, request.source, encoder_id)
        self.promise, self.looks = looks_at(db, self.depends, request.agree, request.confidence)
        self.votes = evidence.calibration
        self.look = look_due(len(self.votes))
        self.tests: list[Test] = []
        self.replaced: list[int] = []

    def document(self, *, dry_run: bool) -> Document:
        """Takes the look that is due, unless it is a dry run, and says what came of it."""
        outcome, made = ("dry-run", None) if dry_run else self._taken()
        pool = self.evidence.pool
        confident = pool.confidence[~np.isnan(pool.confidence)]
        needed = None if dry_run else self._needed(outcome)
        in_force = self._in_force(made)
        return {
            "source": self.request.source,
            "source_words": source_in_words(self.request.source),
            "agree": self.request.agree,
            "confidence": self.request.confidence,
            "guarantee": guarantee(self.request.agree, self.request.confidence),
            "outcome": outcome,
            "certificate": in_force.id if in_force else None,
            "covered": in_force.n_pairs if in_force else 0,
            "replaced": self.replaced,
            "pool": len(pool.side),
            "pool_with_opinion": len(confident),
            "newer_pairs": self.evidence.ground.n_newer,
            "control_votes": len(self.votes),
            "promise": self.promise,
            "look": self._look_document(),
            "looks": [vars(look) for look in self.looks],
            "tests": [
                vars(test) | {"passed": test.passed, "lower": test.lower} for test in self.tests
            ],
            "grid": self._grid() if dry_run else None,
            "needed": needed and {"more": needed.n - len(self.votes), "share": needed.share},
            "next_look": self._next_look(),
        }

    def _taken(self) -> tuple[str, Certificate | None]:
        """Outcome and certificate of the look that is due."""
        if self.look is None or self._level() is None:
            return "too-few", None
        n = look_size(self.look)
        if any(look.n_calibration == n for look in self.looks):
            return "looked-before", None
        passed = self._passed(n)
        made = None if passed is None else self._certificate(passed)
        with writing(self.db):
            made = made and self._record(made)
            look = Look(self.promise, n, self._level() or 0.0, made.id if made else None, now())
            record_look(self.db, look, self.depends, self.request.agree, self.request.confidence)
        self.looks = [*self.looks, look]
        return ("certified" if made else "not-certified"), made

    def _level(self, look: int | None = None) -> float | None:
        """The chance of being wrong that a look may take; None where it could show nothing."""
        look = self.look if look is None else look
        if look is None:
            return None
        level, n = level_of(look, self.promise, self.request.delta), look_size(look)
        return level if fewest_pairs(n, self.request.agree, level) <= n else None

    def _passed(self, n: int) -> Test | None:
        """The lowest threshold that the look certifies and that all control votes bear out."""
        evidence, request = self.evidence, self.request
        pool = evidence.pool.confidence
        self.tests = certify(
            self.votes.take(slice(0, n)), pool, evidence.taken, request.agree, self._level() or 0.0
        )
        for test in reversed([test for test in self.tests if test.passed]):
            if bears_out(
                test.threshold, self.votes, pool, evidence.taken, request.agree, request.delta
            ):
                return test
        return None

    def _certificate(self, passed: Test) -> Certificate:
        control, opinions = self.evidence.ground.control, self.evidence.of_control
        above = np.flatnonzero(opinions.confidence >= passed.threshold)
        required = [passed.required] * len(above)
        labels = [LABELS[side] for side in opinions.side[above].tolist()]
        pairs = (control.a_ids[above].tolist(), control.b_ids[above].tolist(), labels, required)
        recorded = recorded_by(self.db, self.request.source)
        return Certificate(
            id=0,
            source=self.request.source,
            agree=self.request.agree,
            confidence=self.request.confidence,
            threshold=passed.threshold,
            n_calibration=look_size(self.look or 0),
            n_above=passed.n,
            n_agreed=passed.agreed,
            n_pairs=passed.covered,
            calibration=list(zip(*pairs, strict=True)),
            depends=self.depends | {"recorded": recorded},
            last_vote_id=newest_vote(self.db),
            made_at=now(),
            void_at=None,
            void_because=None,
        )

    def _record(self, made: Certificate) -> Certificate:
        ground, pool = self.evidence.ground, self.evidence.pool
        covered = np.flatnonzero(pool.confidence >= made.threshold)
        labels = [LABELS[side] for side in pool.side[covered].tolist()]
        probability = self.evidence.probability()[covered].tolist()
        a, b = ground.a_ids[covered].tolist(), ground.b_ids[covered].tolist()
        before = {one.id for one in certificates(self.db, in_force=True)}
        made = replace(
            made,
            id=record_certificate(self.db, made, zip(a, b, labels, probability, strict=True)),
        )
        for look in self.looks:
            if look.certificate_id is not None:
                void(self.db, look.certificate_id, took_its_place(made.id))
        self.replaced = sorted(before - {one.id for one in certificates(self.db, in_force=True)})
        return made

    def _in_force(self, made: Certificate | None) -> Certificate | None:
        if made is not None:
            return made
        ours = {look.certificate_id for look in self.looks}
        found = [one for one in certificates(self.db, in_force=True) if one.id in ours]
        return found[-1] if found else None

    def _look_document(self) -> Document | None:
        level = self._level()
        if self.look is None or level is None:
            return None
        return {"size": look_size(self.look), "level": level}

    def _next_look(self) -> int:
        """The next number of control votes at which there is something to be seen."""
        look = 0 if self.look is None else self.look
        taken = {one.n_calibration for one in self.looks}
        while (
            self._level(look) is None
            or look_size(look) in taken
            or (self.tests and look == self.look)
        ):
            look += 1
        return look_size(look)

    def _needed(self, outcome: str) -> LabelsNeeded | None:
        if outcome == "certified":
            return None
        after = int(np.log2(self._next_look() / look_size(0)))
        request, pool = self.request, self.evidence.pool.confidence
        return labels_needed(self.votes, pool, request.agree, request.delta, self.promise, after)

    def _grid(self) -> list[Document]:
        """The thresholds that a look would test, and how many pairs each covers: no vote's part."""
        level = self._level()
        if self.look is None or level is None:
            return []
        pool = self.evidence.pool.confidence
        found = thresholds(pool, look_size(self.look), self.request.agree, level)
        return [
            {"threshold": t, "covered": int(np.count_nonzero(pool >= t))} for t in found.tolist()
        ]


def listed(db: Database) -> list[Document]:
    """Every certificate there ever was, as documents; newest last.

    Of those in force also what all control votes say of them now.
    """
    return [_listed(db, one) for one in certificates(db)]


def _listed(db: Database, one: Certificate) -> Document:
    document: Document = {
        "id": one.id,
        "source": one.source,
        "agree": one.agree,
        "confidence": one.confidence,
        "guarantee": one.guarantee,
        "threshold": one.threshold,
        "n_calibration": one.n_calibration,
        "n_above": one.n_above,
        "n_agreed": one.n_agreed,
        "pairs": one.n_pairs,
        "made_at": one.made_at,
        "void_at": one.void_at,
        "void_because": one.void_because,
        "now": None,
    }
    if one.void_at is None:
        document["now"] = vars(standing(db, one))
    return document
