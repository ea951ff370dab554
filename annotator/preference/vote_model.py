"""How an annotator votes, given how much better one response is: Bradley-Terry with ties.

With d the reward of a less that of b and logistic sigma, the grades are an ordered scale with cuts
0 < c_1 (< c_2): P(a better or more) = sigma(d - c_1), P(a much better) = sigma(d - c_2), the same
for b with -d, and what is left between -c_1 and c_1 is a tie. Without strengths this is the tie
model of Rao and Kupper (J. Am. Stat. Assoc. 62, 1967), without ties plain Bradley-Terry; with both
it is the cumulative link model of Agresti (Biometrics 48, 1992). With probability `lapse` the
annotator did not look and pressed any key.

A grade between the cuts x = d - c and y = d - c' < x has the probability

    sigma(x) - sigma(y) = sigma(x) sigma(-y) (1 - exp(y - x)),

the slope of whose logarithm is sigma(-x) - sigma(y): neither cancels, however large d is.

Expectations over a normal d are sums over nodes. A narrow normal has its own, Gauss and Hermite's.
A wide one is stepped through by the trapezoidal rule, what the functions tend to at both ends being
taken off first and added in closed form: they are analytic within pi of the real line, so the
rule's error falls exponentially with the step (Trefethen and Weideman, SIAM Review 56, 2014,
theorem 5.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit, log_expit, ndtr, xlogy

from annotator.errors import PreferenceError
from strategies.within_prompt import Floats

NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(13)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()
WIDE = 1.0  # variance from which on d is stepped through
STEP = 0.8
REACH = 22.0  # how far the steps go beyond the outermost cut: what is left out is below 1e-8
PROBIT = 1.7  # the normal deviation most like a logistic variable's
BLOCK = 1 << 14
SMALLEST = 1e-300


@dataclass(frozen=True)
class VoteModel:
    """`tie` is c_1, `much` is c_2 or None where votes carry no strength; `lapse` in [0, 1).

    Raises PreferenceError unless 0 < tie < much.
    """

    tie: float = 0.4
    much: float | None = None
    lapse: float = 0.05

    def __post_init__(self) -> None:
        much = np.inf if self.much is None else self.much
        if not (0.0 < self.tie < much and 0.0 <= self.lapse < 1.0):
            raise PreferenceError(
                f"a vote model has the cuts {self.tie} and {self.much} and the lapse {self.lapse}",
                expected="0 < tie < much and a lapse in [0, 1)",
            )

    @property
    def n_grades(self) -> int:
        """Keys that an annotator can press: 3, or 5 with strengths."""
        return 3 if self.much is None else 5

    @property
    def cuts(self) -> Floats:
        """The cuts between the grades, ascending, (n_grades - 1,)."""
        upper = [self.tie] if self.much is None else [self.tie, self.much]
        return np.array([-cut for cut in reversed(upper)] + upper)

    def counts(self, five: Floats) -> Floats:
        """Counts (n, 5) of the grades -2 to 2 as counts (n, n_grades) of this model's.

        Where the model has no strengths, "much better" counts as "better".
        """
        if self.much is not None:
            return five
        return np.stack((five[:, 0] + five[:, 1], five[:, 2], five[:, 3] + five[:, 4]), axis=1)

    def grades(self, difference: Floats, lapse: Floats | None = None) -> Floats:
        """P(grade) for differences of any shape, (..., n_grades), lowest grade first.

        `lapse`, of that shape, in place of the model's.
        """
        return np.exp(self._likelihood(difference, lapse).log)

    def likelihood(self, difference: Floats, lapse: Floats | None = None) -> GradeLikelihood:
        """For differences (n,) the likelihood of every grade, its slope, and what a vote tells."""
        return self._likelihood(difference, lapse)

    def expected(self, mean: Floats, variance: Floats) -> Expected:
        """What a vote on pairs whose difference is normal, mean and variance (n,), would say.

        Within 1e-6 of the integrals, whatever the variance.
        """
        n = len(mean)
        found = Expected(np.empty((n, self.n_grades)), np.empty(n), np.empty(n))
        wide = variance >= WIDE
        for rule, rows in ((self._narrow, ~wide), (self._wide, wide)):
            places = np.flatnonzero(rows)
            for start in range(0, len(places), BLOCK):
                at = places[start : start + BLOCK]
                grades, noise, found.fisher[at] = rule(mean[at], variance[at])
                found.grades[at] = grades
                found.information[at] = np.maximum(_entropy(grades) - noise, 0.0)
        return found

    def _narrow(self, mean: Floats, variance: Floats) -> tuple[Floats, Floats, Floats]:
        """P(grade), the expected entropy of the grade, and Fisher information, over a normal d."""
        at_nodes = self._likelihood(mean[:, None] + np.sqrt(variance)[:, None] * NODES, None)
        probability = np.exp(at_nodes.log)
        grades = np.tensordot(NODE_WEIGHTS, probability, axes=(0, 1))
        noise = -np.vecdot(probability, at_nodes.log) @ NODE_WEIGHTS
        return grades, noise, at_nodes.fisher @ NODE_WEIGHTS

    def _wide(self, mean: Floats, variance: Floats) -> tuple[Floats, Floats, Floats]:
        """The same where d is spread so wide that the steps sample its density well."""
        steps, remainders, entropy_far_away = self._steps
        z = (steps - mean[:, None]) / np.sqrt(variance)[:, None]
        density = np.exp(-0.5 * z**2) * (STEP / np.sqrt(2.0 * np.pi * variance))[:, None]
        inside = density @ remainders
        n_cuts = len(self.cuts)
        deviation = np.sqrt(variance + PROBIT**2)[:, None]
        above = ndtr((mean[:, None] - self.cuts) / deviation) + inside[:, :n_cuts]
        grades = np.maximum(-np.diff(above, axis=1, prepend=1.0, append=0.0), 0.0)
        grades = (1.0 - self.lapse) * grades + self.lapse / self.n_grades
        return grades, entropy_far_away + inside[:, n_cuts], inside[:, n_cuts + 1]

    @cached_property
    def _steps(self) -> tuple[Floats, Floats, float]:
        """Steps in d (n_steps,); functions of d there, (n_steps, n_cuts + 2); the limit of the
        grade's entropy as d grows. The functions, all of which vanish at both ends: by how much the
        logistic exceeds the normal distribution function at each cut, the grade's entropy less its
        limit, and Fisher information."""
        n_steps = int(np.ceil((self.cuts[-1] + REACH) / STEP))
        steps = (STEP * np.arange(-n_steps, n_steps + 1)).astype(np.float64)
        likelihood = self._likelihood(steps, None)
        beyond = steps[:, None] - self.cuts
        excess = expit(beyond) - ndtr(beyond / PROBIT)
        far_away = np.full(self.n_grades, self.lapse / self.n_grades)
        far_away[-1] += 1.0 - self.lapse
        limit = float(_entropy(far_away))
        entropy = _entropy(np.exp(likelihood.log)) - limit
        return steps, np.column_stack((excess, entropy, likelihood.fisher)), limit

    def _likelihood(self, difference: Floats, lapse: Floats | None) -> GradeLikelihood:
        beyond = difference[..., None] - self.cuts
        above = expit(beyond)
        log = np.empty((*difference.shape, self.n_grades))
        log[..., 0], log[..., -1] = log_expit(-beyond[..., 0]), log_expit(beyond[..., -1])
        log[..., 1:-1] = log_expit(beyond[..., :-1]) + log_expit(-beyond[..., 1:])
        log[..., 1:-1] += np.log(-np.expm1(-np.diff(self.cuts)))
        score = np.empty_like(log)
        score[..., 0], score[..., -1] = -above[..., 0], expit(-beyond[..., -1])
        score[..., 1:-1] = expit(-beyond[..., :-1]) - above[..., 1:]
        lapses = np.asarray(self.lapse) if lapse is None else lapse[..., None]
        if not np.any(lapses):
            return GradeLikelihood(log, score, np.vecdot(np.exp(log), score**2))
        looked = np.log1p(-lapses) + log
        with np.errstate(divide="ignore"):
            log = np.logaddexp(looked, np.log(lapses / self.n_grades))
        score *= np.exp(looked - log)
        return GradeLikelihood(log, score, np.vecdot(np.exp(log), score**2))


def _entropy(grades: Floats) -> Floats:
    """The entropy of probabilities (..., n_grades), nats."""
    found: Floats = -xlogy(grades, grades).sum(axis=-1)
    return found


@dataclass(frozen=True, eq=False)
class GradeLikelihood:
    """`log` and `score`, its slope, (..., n_grades); `fisher` (...), of one vote, expected."""

    log: Floats
    score: Floats
    fisher: Floats


@dataclass(frozen=True, eq=False)
class Expected:
    """What one vote on each of n pairs would say before it is cast.

    `grades` (n, n_grades) probabilities; `information` (n,) mutual information of vote and
    difference, nats; `fisher` (n,) expected Fisher information about the difference.
    """

    grades: Floats
    information: Floats
    fisher: Floats

    @property
    def preferred(self) -> Floats:
        """P(a is preferred, given that it is no tie), (n,)."""
        middle = self.grades.shape[1] // 2
        for_b = self.grades[:, :middle].sum(axis=1)
        for_a = self.grades[:, middle + 1 :].sum(axis=1)
        share: Floats = (for_a + SMALLEST) / (for_a + for_b + 2.0 * SMALLEST)
        return share

    @property
    def tie(self) -> Floats:
        """P(tie), (n,)."""
        return self.grades[:, self.grades.shape[1] // 2]
