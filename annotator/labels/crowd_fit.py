"""People, and what goes with them, from votes: expectation-maximisation over d of every pair.

d of all pairs lives on one grid, so that the likelihood of a key is a row of a table for every
annotator. What votes say of the pairs, and what the pairs then say of the keys, are each one
product with the sparse matrix that counts the votes of pairs by key; the rest of a step is in the
table, whatever the number of votes. (Dempster, Laird and Rubin, J. R. Stat. Soc. B 39, 1977;
for annotators Dawid and Skene, Applied Statistics 28, 1979.)

Where no prior is given, the variance of d is the one that makes the votes most likely (Liu and
Rubin, Biometrika 81, 1994: steps that maximise the likelihood itself); where no vote model is
given, the cuts are found as well. Wide log-normal hyperpriors keep both from running away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtr

from annotator.labels.crowd_votes import GOLD_UNKNOWN, CrowdVotes, PairPrior
from annotator.labels.pair_belief import Window, pressed, within
from annotator.labels.people import Keys, PressedKeys, Traits, TraitVotes
from annotator.preference.vote_model import VoteModel
from strategies.within_prompt import Floats, Positions, Vectors

STEP = 0.4
NARROW, WIDE = 0.4, 8.0  # deviations of a prior between which the grid shows it as it is
NEAR, FAR = 12.0, 32.0  # the grid's reach
SHARPEST = 0.15  # deviation that a belief on the grid may seem to have
BLOCK_PAIRS = 1 << 14
MAX_STEPS = 300
MANY_PAIRS, SOME_PAIRS = 60_000, 20_000
LONGEST_LEAP, FARTHEST_LEAP = 8.0, 2.0  # in steps; and in the logarithm of any number
TOLERANCE = 2e-4  # of skills, lapses, and the logarithms of deviation and cuts
TYPICAL_DEVIATION = 2.0
HYPERPRIOR_DEVIATION = 0.35  # of the logarithm of deviation and cuts
DEVIATIONS = np.exp(np.linspace(np.log(NARROW), np.log(WIDE), 25))
CUT_MOVE = 0.05  # in the logarithm of a cut, over which its curve is measured
LARGEST_MOVE = 0.5
STRENGTH_GAP = 1.2
SMALLEST = 1e-300
SMALLEST_SINGLE = np.float32(1e-37)


@dataclass(frozen=True, eq=False)
class CrowdFit:
    """What explains the votes: `traits` of people, `model` without lapse, and `deviation` of d.

    `deviation` is None where a prior was given. `window`: where d of each pair is, roughly.
    """

    traits: Traits
    model: VoteModel
    deviation: float | None
    window: Window


def fitted(
    votes: CrowdVotes, model: VoteModel | None, prior: PairPrior | None, gold: Positions
) -> CrowdFit:
    """The traits, cuts and deviation that explain the votes best. All pairs are used.

    Where there are many, the search begins where it ended on some of them.
    """
    known, careful = model is not None, starting_model(votes, model)
    start = None
    if votes.n_pairs > MANY_PAIRS:
        some = np.arange(0, votes.n_pairs, -(-votes.n_pairs // SOME_PAIRS))
        its_prior = None if prior is None else PairPrior(prior.mean[some], prior.variance[some])
        start = _Search(votes.on(some), careful, known, its_prior, gold[some]).run(None)
    search = _Search(votes, careful, known, prior, gold)
    return search.concluded(search.run(start))


def starting_model(votes: CrowdVotes, model: VoteModel | None) -> VoteModel:
    """How careful people vote; where no model is given, as the preference model would begin."""
    if model is not None:
        return replace(model, lapse=0.0)
    start = VoteModel(lapse=0.0)
    return replace(start, much=start.tie + STRENGTH_GAP) if votes.has_strength else start


@dataclass(frozen=True, eq=False)
class _State:
    """Where the search stands. As a vector, `log` holds the logarithms of all its numbers."""

    people: TraitVotes
    model: VoteModel
    deviation: float

    @property
    def log(self) -> Floats:
        people = self.people
        few = [self.deviation, *_gaps(self.model)]
        counts = (people.looked, people.lapsed, people.habit.ravel())
        found: Floats = np.log(np.concatenate((few, *counts)))
        return found

    @property
    def importance(self) -> Floats:
        """What a change of each of them by 1 % is to the votes, in hundredths."""
        mean = self.people.mean
        few = np.ones(1 + self.model.n_grades // 2)
        habit = mean.lapse[:, None] * mean.habit
        return np.concatenate((few, mean.skill, mean.lapse, habit.ravel()))

    def at(self, log: Floats) -> _State:
        """The state of which this is `log`."""
        n, n_gaps = len(self.people.looked), self.model.n_grades // 2
        few, gaps, looked, lapsed, habit = np.split(np.exp(log), np.cumsum([1, n_gaps, n, n]))
        people = TraitVotes(looked, lapsed, habit.reshape(n, 3))
        return _State(people, _with_gaps(gaps), float(few[0]))


@dataclass(frozen=True, eq=False)
class _Expected:
    """What a step needs: votes by key pressed and node, (n_pressed, n_nodes), and the log
    likelihood of all votes for every deviation of d in DEVIATIONS."""

    votes: Floats
    of_deviation: Floats


class _Search:
    """The votes as a sparse matrix, the grid, and the steps of the search."""

    def __init__(
        self,
        votes: CrowdVotes,
        model: VoteModel,
        cuts_known: bool,
        prior: PairPrior | None,
        gold: Positions,
    ) -> None:
        self.start, self.cuts_known = model, cuts_known
        self.keys = Keys.of(self.start.n_grades)
        self.gold, self.n_annotators = gold, votes.n_annotators
        self.prior = None if prior is None else _Shown.of(prior)
        reach = near = NEAR + float(self.start.cuts[-1])
        if self.prior is not None:
            reach = float(np.clip(self.prior.reach, near, FAR + near))
        self.nodes = STEP * np.arange(-np.ceil(reach / STEP), np.ceil(reach / STEP) + 1.0)
        key = votes.annotator * len(self.keys) + self.keys.pressed(votes.grade, votes.left_is_a)
        found, column = np.unique(key, return_inverse=True)
        self.pressed = PressedKeys(self.keys, *np.divmod(found, len(self.keys)))
        ones = np.ones(len(votes), dtype=np.float32)
        self.counts = csr_array((ones, (votes.pair, column)), shape=(votes.n_pairs, len(found)))

    def run(self, state: _State | None) -> _State:
        """Steps from this state, or that before any vote, until none changes anything much."""
        if state is None:
            people = TraitVotes.before(self.n_annotators, self.keys)
            state = _State(people, self.start, TYPICAL_DEVIATION)
        for _ in range(MAX_STEPS // 3):
            state, change = self._leap(state)
            if change < TOLERANCE:
                break
        return state

    def concluded(self, state: _State) -> CrowdFit:
        """What a state says."""
        deviation = state.deviation if self.prior is None else None
        traits = state.people.mean
        return CrowdFit(traits, state.model, deviation, self._window(state))

    def _leap(self, state: _State) -> tuple[_State, float]:
        """Two steps, a leap in their direction, and a third step from there; the second's change.

        The leap is that of SQUAREM (Varadhan and Roland, Scand. J. Stat. 35, 2008, scheme S3).
        """
        first = self._improved(state)
        second = self._improved(first)
        step = first.log - state.log
        turn = second.log - first.log - step
        matters = second.importance
        change = float(np.abs(matters * (second.log - first.log)).max(initial=0.0))
        length = _norm(matters * step) / max(_norm(matters * turn), SMALLEST)
        if change < TOLERANCE or length <= 1.0:
            return second, change
        length = min(length, LONGEST_LEAP)
        ahead = state.log + 2.0 * length * step + length**2 * turn
        ahead = np.clip(ahead, second.log - FARTHEST_LEAP, second.log + FARTHEST_LEAP)
        return self._improved(state.at(ahead)), change

    def _improved(self, state: _State) -> _State:
        expected = self._expected(state)
        careful = pressed(self.nodes, np.arange(self.keys.n_grades)[:, None], state.model)
        people = state.people.improved(self.pressed, careful, expected.votes)
        model, deviation = state.model, state.deviation
        if not self.cuts_known:
            model = _better_cuts(model, people, self.pressed, self.nodes, expected.votes)
        if self.prior is None:
            deviation = _best_deviation(expected.of_deviation)
        return _State(people, model, deviation)

    def _expected(self, state: _State) -> _Expected:
        votes = np.zeros((self.counts.shape[1], len(self.nodes)))
        of_deviation = np.zeros(len(DEVIATIONS))
        priors = np.stack([self._of_deviation(one) for one in DEVIATIONS], axis=1, dtype=np.float32)
        for rows, log_likelihood in self._log_likelihoods(state):
            weight = self._weights(state, rows, log_likelihood)
            votes += self.counts[rows].T @ weight
            if self.prior is None:
                log_likelihood -= log_likelihood.max(axis=1, keepdims=True)
                marginal = np.exp(log_likelihood) @ priors
                of_deviation += np.log(marginal + SMALLEST_SINGLE).sum(axis=0, dtype=np.float64)
        return _Expected(votes, of_deviation)

    def _log_likelihoods(self, state: _State) -> Iterator[tuple[slice, Vectors]]:
        """Block by block the log likelihood of each pair's votes at the nodes, gold included."""
        careful = pressed(self.nodes, np.arange(self.keys.n_grades)[:, None], state.model)
        table = np.log(state.people.table(self.pressed, careful)).astype(np.float32)
        for start in range(0, self.counts.shape[0], BLOCK_PAIRS):
            rows = slice(start, start + BLOCK_PAIRS)
            log: Vectors = self.counts[rows] @ table
            if np.any(self.gold[rows] != GOLD_UNKNOWN):
                allowed = within(self.gold[rows], self.nodes, np.array(STEP), state.model.tie)
                log += np.log(allowed + SMALLEST).astype(np.float32)
            yield rows, log

    def _weights(self, state: _State, rows: slice, log_likelihood: Vectors) -> Vectors:
        """The weight of each node for each of these pairs, sums to 1."""
        log = log_likelihood + self._log_prior(state, rows)
        log -= log.max(axis=1, keepdims=True)
        weight: Vectors = np.exp(log)
        weight /= weight.sum(axis=1, keepdims=True)
        return weight

    def _log_prior(self, state: _State, rows: slice) -> Vectors:
        if self.prior is None:
            found = np.log(self._of_deviation(state.deviation) + SMALLEST)
            return found.astype(np.float32)
        return self.prior.log_density(rows, self.nodes)

    def _of_deviation(self, deviation: float) -> Floats:
        """The mass of N(0, deviation^2) about each node; the ends take what lies beyond."""
        z = self.nodes / deviation
        mass = np.exp(-0.5 * z**2) * (STEP / (deviation * np.sqrt(2.0 * np.pi)))
        mass[[0, -1]] = ndtr(z[0] + 0.5 * STEP / deviation)
        found: Floats = mass / mass.sum()
        return found

    def _window(self, state: _State) -> Window:
        """Where d of each pair is, by its prior as it is and its votes as the grid shows them."""
        mean, variance = np.empty((2, self.counts.shape[0]))
        for rows, log_likelihood in self._log_likelihoods(state):
            weight = self._weights(state, rows, log_likelihood).astype(np.float64)
            mean[rows] = weight @ self.nodes
            variance[rows] = weight @ self.nodes**2 - mean[rows] ** 2
        variance = np.maximum(variance, SHARPEST**2)
        if self.prior is None:
            return Window(mean, np.sqrt(variance))
        return self.prior.as_it_is(mean, variance)


@dataclass(frozen=True, eq=False)
class _Shown:
    """A prior of pairs, and how the grid shows it: neither too narrow, nor wide, nor far away."""

    prior: PairPrior
    mean: Floats
    variance: Floats

    @classmethod
    def of(cls, prior: PairPrior) -> _Shown:
        variance = np.clip(prior.variance, NARROW**2, WIDE**2)
        return cls(prior, np.clip(prior.mean, -FAR, FAR), variance)

    @property
    def reach(self) -> float:
        """How far from 0 there is anything."""
        return float((np.abs(self.mean) + 5.0 * np.sqrt(self.variance)).max(initial=0.0))

    def log_density(self, rows: slice, nodes: Floats) -> Vectors:
        """But for a constant, float32."""
        mean, variance = (column[rows].astype(np.float32) for column in (self.mean, self.variance))
        away = nodes.astype(np.float32) - mean[:, None]
        found: Vectors = away * away
        found *= (-0.5 / variance)[:, None]
        return found

    def as_it_is(self, mean: Floats, variance: Floats) -> Window:
        """The window of a belief that has these moments on the grid."""
        precision = np.maximum(1.0 / variance - 1.0 / self.variance, 0.0)
        pull = mean / variance - self.mean / self.variance
        scale = 1.0 / (1.0 / self.prior.variance + precision)
        shift = pull - precision * self.mean
        return Window(self.prior.mean + scale * shift, np.sqrt(scale))


def _norm(vector: Floats) -> float:
    return float(np.sqrt(vector @ vector))


def _best_deviation(of_deviation: Floats) -> float:
    """The deviation of most posterior density, between those tried by a parabola."""
    log = np.log(DEVIATIONS)
    worth = of_deviation - 0.5 * ((log - np.log(TYPICAL_DEVIATION)) / HYPERPRIOR_DEVIATION) ** 2
    at = int(np.clip(np.argmax(worth), 1, len(worth) - 2))
    return float(np.exp(log[at] + _vertex(worth[at - 1 : at + 2]) * (log[1] - log[0])))


def _better_cuts(
    model: VoteModel, people: TraitVotes, keys: PressedKeys, nodes: Floats, expected: Floats
) -> VoteModel:
    """The cuts after one step of Newton's towards those that explain the votes best."""
    centre = starting_gaps(model)

    def worth(gaps: Floats) -> float:
        careful = pressed(nodes, np.arange(model.n_grades)[:, None], _with_gaps(gaps))
        moved = np.log(gaps / centre) / HYPERPRIOR_DEVIATION
        likelihood = np.vdot(expected, np.log(people.table(keys, careful)))
        return float(likelihood - 0.5 * moved @ moved)

    gaps = _gaps(model)
    for which in range(len(gaps)):
        factors = np.exp(CUT_MOVE * np.arange(-1, 2))
        tried = [gaps * np.where(np.arange(len(gaps)) == which, f, 1.0) for f in factors]
        move = CUT_MOVE * _vertex(np.array([worth(one) for one in tried]))
        gaps[which] *= np.exp(np.clip(move, -LARGEST_MOVE, LARGEST_MOVE))
    return _with_gaps(gaps)


def starting_gaps(model: VoteModel) -> Floats:
    """The gaps between the cuts before any vote: 0 to tie, tie to much."""
    return np.array([VoteModel().tie, STRENGTH_GAP][: model.n_grades // 2])


def _gaps(model: VoteModel) -> Floats:
    """From 0 to tie, and from there to much."""
    upper: Floats = model.cuts[model.n_grades // 2 :]
    return np.diff(upper, prepend=0.0)


def _with_gaps(gaps: Floats) -> VoteModel:
    cuts = np.cumsum(gaps).tolist()
    return VoteModel(cuts[0], cuts[1] if len(cuts) > 1 else None, lapse=0.0)


def _vertex(worth: Floats) -> float:
    """Where a parabola through three values, one apart, is highest, from the middle one."""
    slope, curve = 0.5 * (worth[2] - worth[0]), worth[0] - 2.0 * worth[1] + worth[2]
    if curve >= 0.0:
        return float(np.sign(slope))
    return float(-slope / curve)
