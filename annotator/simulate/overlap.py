"""One overlap policy, one seed: the votes it spends on a set of pairs, and what they are worth.

A fixed set of pairs, all of which need a consensus. A vote is one real vote of one real annotator,
drawn without replacement; the order in which a pair's votes come is the seed's alone, so three
votes of a pair begin with the two that another policy saw. Policies differ in the pairs they ask
again and in nothing else.

The same votes are turned into a consensus in two ways: `majority` goes by the votes for either
side, as people do today; `model` is the joint fit of annotators, pairs and preference model. A
policy that aims at the panel is read in a third way as well: `panel` is what its most people would
say, the votes that were cast counting as they are.

The truth is the set's own gold labels. Where there are none it is the majority of votes that the
seed sets aside before anything is asked: they are fewer than those that can be drawn, so this truth
is noisy and no policy reaches 1, but it owes nothing to the votes that are counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from annotator.labels.crowd_votes import CrowdVotes
from annotator.labels.overlap import EXPECTED_GAIN, PANEL, Overlap, Standing, by_gain, one_more
from annotator.labels.panel import Verdict, panel_verdict
from annotator.preference.vote_model import VoteModel
from annotator.simulate import SimulationError
from annotator.simulate.metrics import sums
from annotator.simulate.world import NO_TRUTH, World
from strategies.within_prompt import Bools, Floats, Positions

GOLD, SET_ASIDE = "gold", "votes"
TRUTHS = (GOLD, SET_ASIDE)
MAJORITY, MODEL = "majority", "model"
READINGS = (MAJORITY, MODEL, PANEL)
ASIDE_OF = 3  # votes, of which at least one is set aside
AHEAD = 3  # votes that expected-gain looks ahead: one alone often cannot turn a pair, three can
SMALLEST = 1e-12
EVEN = 1e-9  # a consensus that near one half takes no side


class Consensus(Protocol):
    """What is believed after a crowd's votes: `annotator.labels.crowd.Crowd`."""

    @property
    def preferred(self) -> Floats:
        """P(a is preferred) of each pair, (n_pairs,)."""

    @property
    def mean(self) -> Floats:
        """The expected difference of each pair, (n_pairs,)."""

    @property
    def variance(self) -> Floats:
        """Its variance, (n_pairs,)."""

    @property
    def model(self) -> VoteModel:
        """How a typical annotator votes."""

    def gain(self, pairs: Positions | None = None, ahead: int = 1) -> Floats:
        """By how much a vote lowers the probability that the consensus is wrong, (n_pairs,)."""


class Consult(Protocol):
    """Votes on pairs of responses, made into a consensus; later calls may use earlier ones."""

    def __call__(self, a: Positions, b: Positions, votes: CrowdVotes) -> Consensus:
        """The consensus of the pairs a, b (n_pairs,) after these votes."""


MakeConsult = Callable[[World], Consult]


def joint_fit(world: World) -> Consult:
    """The model of annotators, pairs and responses that the loop itself uses.

    As there, a learner anew for every consensus: its settings are tuned to all votes there are.
    One that goes on tunes only when votes have doubled, and so learns too late, from second votes,
    how far pairs are a matter of their own.
    """
    from annotator.labels.joint_fit import fit_jointly
    from annotator.preference.learner import Learner

    def consult(a: Positions, b: Positions, votes: CrowdVotes) -> Consensus:
        _, crowd = fit_jointly(Learner(world.features), a, b, votes)
        return crowd

    return consult


@dataclass(frozen=True)
class OverlapPlan:
    """What every policy of a comparison goes through.

    `n_pairs`: so many of the pairs that have a truth, drawn by the seed; None: all of them.
    `truth` GOLD or SET_ASIDE. `growth`: expected-gain asks in batches of this share of the votes
    that it has by then, and believes anew after each.
    """

    n_pairs: int | None = None
    truth: str = GOLD
    growth: float = 0.1


@dataclass(frozen=True, eq=False)
class OverlapRun:
    """What one replay measured, as sums over each prompt at every point where it was measured.

    `votes` (n_points, n_prompts) spent on `pairs` (n_prompts,); `right` (n_points, n_readings,
    n_prompts), by those of READINGS that the policy has, how many of `counted` (n_prompts,), pairs
    whose truth takes a side, have a consensus on it, an even one counting half; `log_loss` the same
    shape, sums over these pairs; `seconds` (n_points,) since the start.
    """

    votes: Floats
    pairs: Floats
    right: Floats
    counted: Floats
    log_loss: Floats
    seconds: Floats


def replay_overlap(
    world: World,
    plan: OverlapPlan,
    overlap: Overlap,
    seed: int,
    make_consult: MakeConsult = joint_fit,
) -> OverlapRun:
    """One policy replayed with one seed: one point, or for expected-gain a curve of them.

    Raises SimulationError where the world has no such truth.
    """
    panel = panel_of(world, plan, seed)
    consult, started = make_consult(world), time.monotonic()
    points = []
    for n_votes, readings in _asked(panel, overlap, plan.growth, consult):
        point = panel.measured(n_votes, readings)
        points.append(point | {"seconds": np.array(time.monotonic() - started)})
    return OverlapRun(
        pairs=panel.by_prompt(np.ones(panel.n_pairs)),
        counted=panel.by_prompt(panel.sided.astype(np.float64)),
        **{name: np.stack([point[name] for point in points]) for name in points[0]},
    )


def readings_of(overlap: Overlap) -> tuple[str, ...]:
    """How a policy's votes are read; the last is what the policy aims at."""
    return READINGS if overlap.aim == PANEL else (MAJORITY, MODEL)


def _asked(
    panel: Panel, overlap: Overlap, growth: float, consult: Consult
) -> Iterator[tuple[Positions, list[Floats]]]:
    """Votes taken of each pair, and P(a) by every reading of them, wherever that is measured."""
    n_votes = _least(panel, overlap)
    if overlap.policy != EXPECTED_GAIN:
        while (more := _may(panel, overlap, n_votes)).any():
            n_votes = n_votes + more
        yield n_votes, [panel.majority(n_votes), panel.consensus(n_votes, consult).preferred]
        return
    while True:
        consensus = panel.consensus(n_votes, consult)
        readings = [panel.majority(n_votes), consensus.preferred]
        if overlap.aim == PANEL:
            verdict = _verdict(panel, overlap, n_votes, consensus)
            readings, gain = [*readings, verdict.preferred], verdict.gain
        else:
            gain = consensus.gain(ahead=AHEAD)
        yield n_votes, readings
        # Everything is asked in the end, whatever it gains: the curve goes up to the most.
        more = _may(panel, overlap, n_votes, np.maximum(gain, SMALLEST))
        if not more.any():
            return
        batch = by_gain(more, gain, max(1, round(growth * int(n_votes.sum()))))
        n_votes = n_votes.copy()
        n_votes[batch] += 1


def _verdict(panel: Panel, overlap: Overlap, n_votes: Positions, consensus: Consensus) -> Verdict:
    return panel_verdict(
        consensus.mean,
        consensus.variance,
        consensus.model,
        panel.lead(n_votes),
        n_votes,
        overlap.range.most,
    )


def _least(panel: Panel, overlap: Overlap) -> Positions:
    least: Positions = np.minimum(overlap.range.least, panel.n_there)
    return least


def _may(panel: Panel, overlap: Overlap, n_votes: Positions, gain: Floats | None = None) -> Bools:
    """Which pairs the policy asks again, of those that have a vote left."""
    standing = Standing(n_votes, np.zeros_like(n_votes), panel.lead(n_votes))
    more: Bools = one_more(overlap, standing, gain) & (n_votes < panel.n_there)
    return more


@dataclass(frozen=True, eq=False)
class Panel:
    """The pairs of one replay, and the votes on each in the order in which they come.

    - `pairs` (n_pairs,) positions in the world's pool; `truth` (n_pairs,) 1, -1 or 0 for a tie.
    - `order` votes of the world, pair by pair; those of pair i begin at `start[i]`, and there are
      `n_there[i]`.
    """

    world: World
    pairs: Positions
    truth: Positions
    order: Positions
    start: Positions
    n_there: Positions

    @property
    def n_pairs(self) -> int:
        """How many pairs need a consensus."""
        return len(self.pairs)

    @property
    def sided(self) -> Bools:
        """Whose truth takes a side: these are measured, (n_pairs,)."""
        takes: Bools = self.truth != 0
        return takes

    def drawn(self, n_votes: Positions) -> tuple[Positions, Positions]:
        """The votes when n_votes (n_pairs,) are taken of each pair: its pair, and which it is."""
        pair = np.repeat(np.arange(self.n_pairs), n_votes)
        depth = np.arange(len(pair)) - np.repeat(np.cumsum(n_votes) - n_votes, n_votes)
        return pair, self.order[self.start[pair] + depth]

    def lead(self, n_votes: Positions) -> Positions:
        """Votes for a less votes for b, (n_pairs,)."""
        for_a, for_b = self._for_either(n_votes)
        lead: Positions = for_a - for_b
        return lead

    def _for_either(self, n_votes: Positions) -> tuple[Positions, Positions]:
        pair, vote = self.drawn(n_votes)
        sign = np.sign(self.world.vote_grade[vote])
        return (
            np.bincount(pair[sign > 0], minlength=self.n_pairs),
            np.bincount(pair[sign < 0], minlength=self.n_pairs),
        )

    def consensus(self, n_votes: Positions, consult: Consult) -> Consensus:
        """What the model believes after these votes; annotators who cast none are unknown to it."""
        world, pool = self.world, self.world.pool
        pair, vote = self.drawn(n_votes)
        people, annotator = np.unique(world.vote_annotator[vote], return_inverse=True)
        votes = CrowdVotes(
            pair=pair,
            grade=world.vote_grade[vote],
            annotator=annotator.astype(np.int64),
            left_is_a=world.vote_left_is_a[vote],
            n_pairs=self.n_pairs,
            n_annotators=len(people),
        )
        return consult(pool.pair_a[self.pairs], pool.pair_b[self.pairs], votes)

    def majority(self, n_votes: Positions) -> Floats:
        """P(a) by the votes alone, (n_pairs,): Laplace's rule of succession, ties left out."""
        for_a, for_b = self._for_either(n_votes)
        share: Floats = (for_a + 1.0) / (for_a + for_b + 2.0)
        return share

    def measured(self, n_votes: Positions, readings: list[Floats]) -> dict[str, Floats]:
        """The sums of an OverlapRun at one point; `readings`: P(a) of each pair, by each."""
        return {
            "votes": self.by_prompt(n_votes),
            "right": np.stack([self._right(preferred) for preferred in readings]),
            "log_loss": np.stack([self._log_loss(preferred) for preferred in readings]),
        }

    def _right(self, preferred: Floats) -> Floats:
        lean = preferred - 0.5
        agrees = np.where(np.abs(lean) < EVEN, 0.0, np.sign(lean)) * self.truth
        return self.by_prompt(np.where(self.sided, 0.5 + 0.5 * agrees, 0.0))

    def _log_loss(self, preferred: Floats) -> Floats:
        of_truth = np.where(self.truth > 0, preferred, 1.0 - preferred)
        return self.by_prompt(np.where(self.sided, -np.log(np.maximum(of_truth, SMALLEST)), 0.0))

    def by_prompt(self, values: Floats | Positions) -> Floats:
        """The sum of values (n_pairs,) over the pairs of each prompt, (n_prompts,)."""
        pool = self.world.pool
        return sums(pool.prompt_of_pair[self.pairs], values, pool.n_prompts)


def panel_of(world: World, plan: OverlapPlan, seed: int) -> Panel:
    """The pairs and votes of the replays with this seed.

    Raises SimulationError if there is no gold where it was asked for, or no pair with enough votes
    to set some aside.
    """
    aside: Bools = np.zeros(world.n_votes, dtype=np.bool_)
    draw = np.random.default_rng([seed, 0]).random(world.n_votes)
    truth = world.truth
    if plan.truth == SET_ASIDE:
        aside = _set_aside(world, draw)
        truth = _majority_of(world, aside)
    pairs = np.flatnonzero(truth != NO_TRUTH)
    _require_sides(truth[pairs], plan)
    if plan.n_pairs is not None and plan.n_pairs < len(pairs):
        rng = np.random.default_rng([seed, 1])
        pairs = np.sort(rng.choice(pairs, size=plan.n_pairs, replace=False))
    order = np.lexsort((draw, aside, world.vote_pair))  # what is set aside lies below the rest
    on_pair = np.bincount(world.vote_pair, minlength=world.pool.n_pairs)
    there = np.bincount(world.vote_pair[~aside], minlength=world.pool.n_pairs)
    start = np.cumsum(on_pair) - on_pair
    return Panel(world, pairs, truth[pairs], order, start[pairs], there[pairs])


def _set_aside(world: World, draw: Floats) -> Bools:
    """Of every pair with two votes or more a third, rounded down to an odd number but at least one.

    Odd, so that a majority of votes that take a side is seldom even.
    """
    on_pair = np.bincount(world.vote_pair, minlength=world.pool.n_pairs)
    third = on_pair // ASIDE_OF
    n_aside = np.where(on_pair < 2, 0, np.maximum(1, third - (third % 2 == 0)))
    order = np.lexsort((draw, world.vote_pair))
    depth = np.arange(world.n_votes) - np.repeat(np.cumsum(on_pair) - on_pair, on_pair)
    aside = np.zeros(world.n_votes, dtype=np.bool_)
    aside[order[depth < n_aside[world.vote_pair]]] = True
    return aside


def _majority_of(world: World, votes: Bools) -> Positions:
    """The side of most of these votes, 0 where they are even, NO_TRUTH where there are none."""
    n_pairs, pair = world.pool.n_pairs, world.vote_pair[votes]
    net = sums(pair, np.sign(world.vote_grade[votes]), n_pairs)
    some = np.bincount(pair, minlength=n_pairs) > 0
    found: Positions = np.where(some, np.sign(net).astype(np.int64), NO_TRUTH)
    return found


def _require_sides(truth: Positions, plan: OverlapPlan) -> None:
    if np.any(truth != 0):
        return
    if plan.truth == GOLD:
        raise SimulationError(
            "no pair with votes has a gold label that takes a side",
            expected="gold labels beside the votes, of the kind objective",
            todo=f"use --truth {SET_ASIDE}, the majority of votes that are set aside",
        )
    raise SimulationError(
        "no pair has two votes or more, of which those set aside take a side",
        expected="several votes a pair, one of them to be the truth",
        todo="give a set whose pairs several people have judged",
    )
