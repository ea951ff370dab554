"""Quality, what the next votes bring, and votes spared: measured on a project, as documents."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from annotator.budget.advice import (
    AHEAD,
    FEWEST_CONTROL,
    ROUNDS_RUNNING,
    Decisions,
    deviation_of_gain,
    gained,
    kappa,
    next_gain,
)
from annotator.budget.counts import current_counts
from annotator.budget.evidence import Evidence, Rounds, control_votes_of, leads, n_newer_pairs
from annotator.budget.quality import (
    Drawn,
    Outcomes,
    Pool,
    pool_share,
    share_by_chance,
    weights_in_pool,
)
from annotator.budget.spared import (
    SURE,
    ClosedPairs,
    Comparisons,
    contradicted,
    sure_of,
    turned_by_panel,
    votes_spared,
)
from annotator.labels.consensus import verdicts
from annotator.labels.intervals import Estimate
from annotator.preference.laplace import places_of
from annotator.preference.posterior import Posterior
from strategies.within_prompt import Bools, Floats, Positions, all_pairs

Document = dict[str, Any]

VERSION = 2
DIGITS = 6
LEAST_BETWEEN = 20  # votes between two models that are called successive
ANSWERED = 0.9  # of a round's picks, before it makes a model of its own
MOST_TAKEN = 0.05  # of the pool, by strategies, before the cross-check is about another one
MOST_CHECKED = 2_000  # control pairs, that inference is checked on
MOST_INFERRED = 200_000  # pairs of prompts with votes, that are looked through


def measures(evidence: Evidence) -> Document:
    """Everything that takes a model, as one document: quality, gain, kappas, spared."""
    votes_control = control_votes_of(evidence.cast)
    why = _why_nothing(evidence, votes_control)
    document: Document = {
        "votes_control": votes_control,
        "why_not": why,
        "quality": None,
        "gain": None,
        "kappas": [],
        "stop_pairs": 0,
        "overlap": _overlap(evidence),
        "inference": None,
    }
    if evidence.posterior is None:
        return document
    taught = _Taught(evidence)
    document |= {"inference": _inference(evidence), **_kappas(evidence)}
    if why is None:
        document |= {"quality": taught.quality(), "gain": taught.gain()}
        if document["quality"] is None:
            document["why_not"] = "the control arm's responses have no vectors"
    return document


def _why_nothing(evidence: Evidence, votes_control: int) -> str | None:
    if votes_control < FEWEST_CONTROL:
        return f"{votes_control} of at least {FEWEST_CONTROL} control votes"
    if evidence.posterior is None:
        return (
            "the preference model does not see these responses: they have no vectors, or are too "
            "many to be fitted at once"
        )
    return None


def _estimate(found: Estimate) -> Document:
    return {name: _number(value) for name, value in vars(found).items()}


def _number(value: float) -> float | None:
    return round(float(value), DIGITS) if np.isfinite(value) else None


class _Taught:
    """What people said of pairs with votes, held against models that do not know those votes."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        picks, early = evidence.picks, evidence.early
        pick, grade = evidence.pick_of_vote[early], evidence.cast.grade[early]
        n = len(picks.ids)
        self._n_votes = np.bincount(pick, minlength=n)
        self._for_a = np.bincount(pick[grade > 0], minlength=n)
        self._for_b = np.bincount(pick[grade < 0], minlength=n)
        a, b = evidence.places(picks.a_ids, picks.b_ids)
        self._known = (self._n_votes > 0) & (a >= 0) & (b >= 0)
        self._rows = np.flatnonzero(self._known)
        self._a, self._b = a[self._rows], b[self._rows]
        assert evidence.posterior is not None
        self._posterior = evidence.posterior
        self._of_pool = self._posterior.features.prompt_of_response[evidence.pool[0]]
        self._prompt = self._posterior.features.prompt_of_response[self._a]

    def quality(self) -> Document | None:
        """The share of votes foretold, and its cross-check; None without control votes to see."""
        found = self._outcomes(*self._shares(self._posterior))
        share = pool_share(found, self._pool(self._posterior))
        if np.isnan(share.helped.value):
            return None
        return {
            "accuracy": _estimate(share.helped),
            "plain": _estimate(share.plain),
            "worth": _number(share.worth),
            "newer_pairs": self._newer_pairs(),
            "power": _number(share.power),
            **self._cross_check(),
        }

    def _newer_pairs(self) -> int:
        """Pairs that came in after the first round that has control votes had been drawn."""
        picks, rounds = self._evidence.picks, self._evidence.rounds
        first = picks.place[self._rows][picks.control[self._rows]].min()
        return n_newer_pairs(self._evidence.db, int(rounds.ids[first]))

    def gain(self) -> Document | None:
        """What the last half of the votes brought, and what the next ones would."""
        n_now = int(np.count_nonzero(self._evidence.lessons.a >= 0))
        n_before, n_last = n_now // 2, n_now - min(AHEAD, n_now // 4)
        if n_before < FEWEST_CONTROL:
            return None
        turn = self._evidence.turn
        now, before, last = (self._evidence.taught_by(turn < n) for n in (n_now, n_before, n_last))
        past = self._past_gain(before, now)
        a, b = self._evidence.pool
        deviation = deviation_of_gain(
            now, a, b, _decides(last, a, b), _decides(now, a, b), self._evidence.rng
        ) * np.sqrt(AHEAD / (n_now - n_last))
        return {
            "past": _estimate(past),
            "votes_before": n_before,
            "votes_now": n_now,
            "next": _estimate(next_gain(past, n_before, n_now, deviation)),
        }

    def _past_gain(self, before: Posterior, now: Posterior) -> Estimate:
        rows = (self._a, self._b), self._evidence.pool
        expected = []
        for a, b in rows:
            mean, variance = now.before_votes(a, b)
            said = now.model.expected(mean, variance)
            decisions = Decisions(_decides(before, a, b), mean > 0.0, said.preferred)
            expected.append((decisions.expected_gain * (1.0 - said.tie), 1.0 - said.tie))
        right = self._right(_decides(now, self._a, self._b)) - self._right(
            _decides(before, self._a, self._b)
        )
        change = self._outcomes(right, *expected[0])
        return gained(change, Pool(self._of_pool, *expected[1]))

    def _right(self, for_a: Bools) -> Floats:
        """The share of each pair's votes that these decisions foretell, (n,)."""
        hits = np.where(for_a, self._for_a[self._rows], self._for_b[self._rows])
        share: Floats = hits / self._n_votes[self._rows]
        return share

    @property
    def _sided(self) -> Floats:
        share: Floats = (self._for_a + self._for_b)[self._rows] / self._n_votes[self._rows]
        return share

    def _shares(self, posterior: Posterior) -> tuple[Floats, Floats, Floats]:
        """Of each pair the share of votes foretold, and what the model expects of that."""
        right = self._right(_decides(posterior, self._a, self._b))
        return right, *_expected(posterior, self._a, self._b)

    def _pool(self, posterior: Posterior) -> Pool:
        return Pool(self._of_pool, *_expected(posterior, *self._evidence.pool))

    def _outcomes(self, right: Floats, expected_right: Floats, expected_sided: Floats) -> Outcomes:
        picks, rounds = self._evidence.picks, self._evidence.rounds
        weight = weights_in_pool(
            picks.place[self._rows], picks.control[self._rows], rounds.n_left, rounds.n_taken
        )
        return Outcomes(self._prompt, weight, right, self._sided, expected_right, expected_sided)

    def _cross_check(self) -> Document:
        """The same share out of the acquired arm, where the chances of its picks are known."""
        picks, rounds = self._evidence.picks, self._evidence.rounds
        drawn = ~picks.control & np.isfinite(picks.chance)
        whole = _whole_rounds(picks.place, picks.control, drawn, len(rounds.ids))
        whole &= ~rounds.routed
        kept = np.flatnonzero(drawn & whole[picks.place])
        if not len(kept):
            return {
                "cross_check": None,
                "cross_check_why": "the strategy did not draw its pairs, so nobody knows what they "
                "stand for",
            }
        right, sided, prompt = np.full((3, len(picks.ids)), np.nan)
        right[self._rows] = self._right(_decides(self._posterior, self._a, self._b))
        sided[self._rows], prompt[self._rows] = self._sided, self._prompt
        n_pool = rounds.n_left - rounds.n_control
        found = share_by_chance(
            Drawn(
                prompt=np.nan_to_num(prompt[kept], nan=-1.0).astype(np.int64),
                place=picks.place[kept],
                draw=picks.draw[kept],
                chance=_given_not_control(picks.chance[kept], rounds, picks.place[kept]),
                right=right[kept],
                sided=sided[kept],
                n_pool=n_pool,
                n_picked=rounds.n_acquired,
            )
        )
        if np.isnan(found.share.value):
            return {
                "cross_check": None,
                "cross_check_why": f"the {found.n:,} votes on pairs that the strategy drew weigh "
                f"as little as {found.effective:.0f} random ones: too few to check anything by",
            }
        if (taken := _taken_before(rounds, int(picks.place[kept].max()))) > MOST_TAKEN:
            return {
                "cross_check": None,
                "cross_check_why": f"strategies had taken {100 * taken:.0f} % of the pool before "
                "the last pairs were drawn, so those stand for what was left and not for all",
            }
        return {"cross_check": _estimate(found.share) | {"votes": found.n}, "cross_check_why": None}


def _decides(posterior: Posterior, a: Positions, b: Positions) -> Bools:
    """Whether a is believed to be preferred, the pair's own votes left out, (n,)."""
    decisions: Bools = posterior.before_votes(a, b)[0] > 0.0
    return decisions


def _expected(posterior: Posterior, a: Positions, b: Positions) -> tuple[Floats, Floats]:
    """The shares of a pair's votes that the model expects to foretell, and to take a side."""
    said = posterior.model.expected(*posterior.before_votes(a, b))
    sided = 1.0 - said.tie
    return sided * np.maximum(said.preferred, 1.0 - said.preferred), sided


def _whole_rounds(place: Positions, control: Bools, drawn: Bools, n_rounds: int) -> Bools:
    """Rounds (n_rounds,) all of whose acquired picks were drawn with a known chance."""
    acquired = np.bincount(place[~control], minlength=n_rounds)
    whole: Bools = (np.bincount(place[drawn], minlength=n_rounds) == acquired) & (acquired > 0)
    return whole


def _taken_before(rounds: Rounds, place: int) -> float:
    """The share of the pool that strategies had taken before that round."""
    pool = rounds.n_left[place] + rounds.n_taken[place]
    return float(rounds.n_acquired[:place].sum() / max(pool, 1))


def _given_not_control(chance: Floats, rounds: Rounds, place: Positions) -> Floats:
    """The chance of each pick among the pairs that were not drawn for the control arm.

    A pick's recorded chance is that of the whole round: its strategy's, times that of not having
    been drawn for the control arm before.
    """
    spared = 1.0 - rounds.n_control[place] / rounds.n_left[place]
    given: Floats = np.minimum(chance / spared, 1.0)
    return given


def _kappas(evidence: Evidence) -> Document:
    """Cohen's kappa of successive models on sampled pairs without votes, the newest last."""
    a, b = (ends[evidence.unasked] for ends in evidence.pool)
    ends = _ends_of_models(evidence)[-ROUNDS_RUNNING - 1 :]
    if len(a) < FEWEST_CONTROL:
        return {"kappas": [], "stop_pairs": len(a)}
    place = evidence.picks.place[evidence.pick_of_vote]
    said = [_decides(evidence.taught_by(place <= end), a, b) for end in ends]
    found = [kappa(*successive) for successive in pairwise(said)]
    return {"kappas": [round(one, 4) for one in found], "stop_pairs": len(a)}


def _ends_of_models(evidence: Evidence) -> list[int]:
    """Rounds after which a model of its own is made: answered, and enough votes since the last."""
    rounds, picks = evidence.rounds, evidence.picks
    n = len(rounds.ids)
    votes = np.bincount(picks.place[evidence.pick_of_vote], minlength=n)
    voted = np.bincount(picks.place[np.unique(evidence.pick_of_vote)], minlength=n)
    complete = voted >= ANSWERED * (rounds.n_acquired + rounds.n_control)
    ends: list[int] = []
    since = 0
    for place in range(n):
        since += int(votes[place])
        if complete[place] and since >= LEAST_BETWEEN:
            ends.append(place)
            since = 0
    return ends


def _overlap(evidence: Evidence) -> Document | None:
    """Votes spared by asking few people first; None where every round asks a fixed number."""
    picks, rounds = evidence.picks, evidence.rounds
    adaptive = (rounds.most > rounds.least)[picks.place] & ~picks.control
    if not adaptive.any() or (belief := evidence.belief) is None:
        return None
    n_votes, lead = leads(evidence.cast.grade, evidence.pick_of_vote, len(picks.ids))
    waiting = np.isin(picks.ids, list(current_counts(evidence.db).open_))
    at = _place_in(belief.a_ids, belief.b_ids, picks.a_ids, picks.b_ids)
    crowd, most = belief.crowd, rounds.most[picks.place]
    settled = np.zeros(len(picks.ids), dtype=np.bool_)
    settled[at >= 0] = verdicts(crowd.preferred, crowd.tie)[at[at >= 0]] != "disputed"
    closed = adaptive & ~waiting & settled & (n_votes >= rounds.least[picks.place])
    fewer = np.flatnonzero(closed & (n_votes < most))
    if not len(fewer):
        return None
    of = at[fewer]
    found = ClosedPairs(
        votes=n_votes[fewer],
        most=most[fewer],
        lead=lead[fewer],
        preferred=crowd.preferred[of],
        mean=crowd.mean[of],
        variance=crowd.variance[of],
    )
    sizes = sorted(set(found.most.tolist()))
    against = " or ".join(str(size) for size in sizes)
    return {
        "votes": votes_spared(found),
        "pairs": len(fewer),
        "against": f"{against} votes on each pair",
        "error": _estimate(turned_by_panel(found, crowd.model)),
    }


def _place_in(known_a: Positions, known_b: Positions, a: Positions, b: Positions) -> Positions:
    """Where these pairs stand among the known ones, -1 where they do not."""
    return places_of((a << 32) | b, (known_a << 32) | known_b)


def _inference(evidence: Evidence) -> Document | None:
    """Pairs that follow from votes on other pairs of their prompt; None where there are none."""
    posterior, picks, belief = evidence.posterior, evidence.picks, evidence.belief
    assert posterior is not None
    assert belief is not None
    voted = np.unique(evidence.pick_of_vote)
    a, b = evidence.places(picks.a_ids, picks.b_ids)
    known = voted[(a[voted] >= 0) & (b[voted] >= 0)]
    compared = Comparisons(a[known], b[known])
    of_a, of_b = _unasked_pairs(evidence, posterior, a[known], b[known])
    sure = sure_of(*_moments(posterior, of_a, of_b))
    joined = compared.joined_pairs(of_a[sure], of_b[sure])
    n_pairs = int(joined.sum())
    control = known[picks.control[known]][:MOST_CHECKED]
    of_control = a[control], b[control]
    mean, variance = posterior.before_votes(*of_control)
    checked = sure_of(mean, variance) & compared.joined_pairs(*of_control)
    _, lead = leads(evidence.cast.grade, evidence.pick_of_vote, len(picks.ids))
    if not n_pairs:
        return None
    least = int(evidence.rounds.least[-1])
    return {
        "pairs": n_pairs,
        "votes": n_pairs * least,
        "confidence": SURE,
        "error": _estimate(contradicted(lead[control][checked], mean[checked])),
        "checked": int(np.count_nonzero(lead[control][checked])),
    }


def _unasked_pairs(
    evidence: Evidence, posterior: Posterior, a: Positions, b: Positions
) -> tuple[Positions, Positions]:
    """Pairs that were neither asked nor routed, of responses that have a vote each."""
    labelled = np.unique(np.concatenate((a, b)))
    first, second = all_pairs(posterior.features.prompt_of_response[labelled])
    first, second = labelled[first[:MOST_INFERRED]], labelled[second[:MOST_INFERRED]]
    taken = [evidence.places(evidence.picks.a_ids, evidence.picks.b_ids)]
    taken.append(evidence.places(*evidence.routed))
    codes = np.concatenate([_code(*ends) for ends in taken])
    free = ~np.isin(_code(first, second), codes)
    return first[free], second[free]


def _code(a: Positions, b: Positions) -> Positions:
    found: Positions = (np.minimum(a, b) << 32) | np.maximum(a, b)
    return found


def _moments(posterior: Posterior, a: Positions, b: Positions) -> tuple[Floats, Floats]:
    found = posterior.differences(a, b)
    return found.mean, found.variance
