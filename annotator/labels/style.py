"""What people are drawn to beside the answer itself: length, and marks of style. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from annotator.labels.intervals import (
    LEVEL,
    NOTHING,
    Estimate,
    share_of_clusters,
    sums_by_cluster,
)
from strategies.within_prompt import Bools, Floats, Positions

STYLE = ("length", "lists", "headings", "bold", "code")
LEFT = "left side"  # whether the response stood on the left; beside STYLE in the regression
FEWEST_VOTES = 50  # with fewer no regression is made
FEWEST_CLUSTERS_FITTED = 30  # nor with fewer prompts: its intervals would be too narrow
PRIOR_SCALE = 2.5  # of a coefficient per standard deviation: an odds ratio of 12

_LIST = re.compile(r"^[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}[ \t]+\S", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^\s*][^*\n]*\*\*|__[^\s_][^_\n]*__")
_FENCED = re.compile(r"^```.*?(?:^```|\Z)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")


@dataclass(frozen=True)
class Effect:
    """What one difference between two responses does to the vote, the others held equal.

    `odds_ratio` of being preferred, per standard deviation `sd` of the difference; of LEFT for
    standing on the left rather than on the right.
    """

    name: str
    odds_ratio: Estimate
    sd: float


@dataclass(frozen=True, eq=False)
class Logistic:
    """A fitted regression: coefficients (p,), and their covariance, which is robust to clusters."""

    coefficients: Floats
    covariance: Floats
    n_clusters: int

    def interval(self, i: int) -> Estimate:
        """Of one coefficient, by Student's t with a degree of freedom for each further cluster."""
        from scipy.special import stdtrit

        reach = -stdtrit(self.n_clusters - 1, (1 - LEVEL) / 2) * np.sqrt(self.covariance[i, i])
        value = float(self.coefficients[i])
        return Estimate(value, value - float(reach), value + float(reach))


def style_of(texts: Iterable[str]) -> Floats:
    """Logarithms, (n, 5) in the order of STYLE, of 1 + characters and of 1 + how many there are.

    List items, headings, bold passages, and code in backticks or between fences; a mark inside
    fenced code is code.
    """
    rows = [_counts(text) for text in texts]
    return np.log1p(np.array(rows, dtype=np.float64).reshape(-1, len(STYLE)))


def _counts(text: str) -> tuple[int, int, int, int, int]:
    prose, n_fenced = _FENCED.subn("", text) if "```" in text else (text, 0)
    n_lists = len(_LIST.findall(prose))
    n_headings = len(_HEADING.findall(prose)) if "#" in prose else 0
    n_bold = len(_BOLD.findall(prose)) if "**" in prose or "__" in prose else 0
    n_code = len(_CODE.findall(prose)) if "`" in prose else 0
    return len(text), n_lists, n_headings, n_bold, n_code + n_fenced


def longer_wins(
    grade: Positions, longer: Floats, prompt: Positions, rng: np.random.Generator
) -> tuple[Estimate, int]:
    """How often the longer response is preferred, and of how many votes; all (n_votes,).

    `longer` how much longer a is than b. Ties of either kind are left out. The interval is from a
    bootstrap over prompts.
    """
    rows = np.flatnonzero((grade != 0) & (longer != 0))
    if not len(rows):
        return NOTHING, 0
    won = (np.sign(grade[rows]) == np.sign(longer[rows])).astype(np.float64)
    sums = sums_by_cluster(np.stack((won, np.ones(len(won))), axis=1), prompt[rows])
    return share_of_clusters(sums[:, 0], sums[:, 1], rng), len(rows)


def style_effects(
    grade: Positions, difference: Floats, left_is_a: Bools, prompt: Positions
) -> list[Effect]:
    """What length, style and side do to the vote, each with the others held equal.

    A logistic regression of sided votes (n_votes,) on the difference (n_votes, 5) of style_of a and
    b, and on which stood left. No constant: a and b are names. A weak prior keeps what would always
    win finite. Empty with fewer than FEWEST_VOTES or FEWEST_CLUSTERS_FITTED prompts; a mark that no
    two responses differ in is left out.
    """
    rows = np.flatnonzero(grade != 0)
    if len(rows) < FEWEST_VOTES or len(np.unique(prompt[rows])) < FEWEST_CLUSTERS_FITTED:
        return []
    x = np.column_stack((difference[rows], np.where(left_is_a[rows], 0.5, -0.5)))
    scale = np.append(np.sqrt((difference[rows] ** 2).mean(axis=0)), 1.0)
    varied = np.flatnonzero(scale > 1e-9)
    fit = logistic(x[:, varied] / scale[varied], grade[rows] > 0, prompt[rows])
    names = (*STYLE, LEFT)
    return [
        Effect(names[column], _odds(fit.interval(i)), float(scale[column]))
        for i, column in enumerate(varied.tolist())
    ]


def _odds(log: Estimate) -> Estimate:
    return Estimate(*(float(np.exp(x)) for x in (log.value, log.low, log.high)))


def logistic(x: Floats, y: Bools, cluster: Positions) -> Logistic:
    """P(y = 1) = 1 / (1 + exp(-x w)), w a priori normal with deviation PRIOR_SCALE; x (n, p).

    The covariance is the sandwich over clusters with the correction that Stata calls CR1 (Cameron
    and Miller, Journal of Human Resources 50, 2015, section VI).
    """
    w = np.zeros(x.shape[1])
    prior = np.eye(len(w)) / PRIOR_SCALE**2
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-x @ w))
        curvature = (x * (p * (1.0 - p))[:, None]).T @ x + prior
        step = np.linalg.solve(curvature, x.T @ (y - p) - prior @ w)
        # Newton's step may overshoot far from the maximum, where the curve is flat.
        w = w + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    p = 1.0 / (1.0 + np.exp(-x @ w))
    scores = sums_by_cluster(x * (y - p)[:, None], cluster)
    n, g = len(y), len(scores)
    bread = np.linalg.inv((x * (p * (1.0 - p))[:, None]).T @ x + prior)
    correction = g / (g - 1.0) * (n - 1.0) / (n - len(w))
    return Logistic(w, correction * bread @ scores.T @ scores @ bread, g)
