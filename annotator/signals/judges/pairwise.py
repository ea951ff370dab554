"""Comparisons of two responses: what both orders say together, and a score for each response.

A judge that prefers a place to a response shows it when the two are shown the other way round
(arXiv 2306.05685, section 3.3). So every pair is asked in both orders. With f1 = P(a wins) when a
stands first and f2 = P(a wins) when b does:

    p = (f1 + f2) / 2,   v_swap = (f1 - f2)^2

p is the mean of two looks, so its variance by their spread is v_swap / 4. Where the orders name
different winners there is none, and p is one half however sure either of them was. The scores of a
prompt's responses are the least-squares potential of the graph of its judged pairs (HodgeRank:
Jiang, Lim, Yao and Ye 2011, "Statistical ranking and combinatorial Hodge theory", section 3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from annotator.signals.judges.grades import (
    HOWS,
    Place,
    Unparsable,
    answer_probabilities,
    answered_choices,
)
from annotator.signals.judges.reply import Choice, Reply

LETTERS = ("A", "B")  # A is the response shown first
ALL_PAIRS_UP_TO = 5  # responses; beyond, the pairs of a prompt grow too many to pay for
DESIGNS_TRIED = 64
NO_PART = 1e-9  # of a gap in a score: rounding

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ALONE = re.compile(
    r"[\s*_`\"'()\[\].:]{0,20}(?:(?i:response|answer)[\s*_:]{1,5})?([AB])\b(?P<after>.*)", re.DOTALL
)
_BRACKETED = re.compile(r"\[\[([AB])\]\]")
_NOTHING = re.compile(r"[\s*_`\"'()\[\].]*")


@dataclass(frozen=True)
class PairJudgement:
    """What a judge says of responses a and b in both orders."""

    p: float  # P(a is better), the mean over the two orders; one half where they flipped
    v_swap: float | None  # squared difference between the orders; None: unknown
    flipped: bool  # the orders name different winners: doubt, and never a win
    how: str  # "logprobs", "samples" or "integer" (one letter in each order)
    mass: float | None  # the smaller probability on A and B of the two orders, with log-probs

    @property
    def variance(self) -> float | None:
        """The variance of p, as the mean of two orders drawn at random; None: unknown."""
        return None if self.v_swap is None else self.v_swap / 4


def judge_pair(a_first: Sequence[Reply], b_first: Sequence[Reply], how: str) -> PairJudgement:
    """The judgement in the replies to both orders, read as `how` says (see grades.grade).

    `a_first` shows a as A and b as B, `b_first` the other way round. Two bare letters that agree
    tell nothing of the judge's doubt: v_swap is then None. Raises Refused or Unparsable.
    """
    f1, mass1 = first_wins(a_first, how)
    f2, mass2 = first_wins(b_first, how)
    f2 = 1.0 - f2
    flipped = (f1 - 0.5) * (f2 - 0.5) < 0
    return PairJudgement(
        p=0.5 if flipped else (f1 + f2) / 2,
        v_swap=None if how == "integer" and not flipped else (f1 - f2) ** 2,
        flipped=flipped,
        how=how,
        mass=None if mass1 is None or mass2 is None else min(mass1, mass2),
    )


def first_wins(replies: Sequence[Reply], how: str) -> tuple[float, float | None]:
    """P(the response shown first is better), and the mass on both letters with log-probs.

    "logprobs": from the token of the letter. "samples": the share of A among all choices.
    "integer": 1 or 0. Raises Refused or Unparsable.
    """
    if how not in HOWS:
        raise ValueError(f"how is one of {', '.join(HOWS)}, not {how!r}")
    choices = answered_choices(replies, all_of_them=how == "samples")
    places = [find_letter(choice) for choice in choices]
    if how == "logprobs":
        p, mass = answer_probabilities(choices[0], places[0], LETTERS)
        return float(p[0]), mass
    return sum(place.answer == LETTERS[0] for place in places) / len(places), None


def find_letter(choice: Choice) -> Place:
    """Where the answer names its winner: the letter alone, or the last [[A]] or [[B]].

    Raises Unparsable "no winner".
    """
    text = choice.text or ""
    alone = _ALONE.fullmatch(text)
    if alone and _NOTHING.fullmatch(alone["after"]):
        return Place(alone[1], alone.start(1), alone.end(1))
    bracketed = list(_BRACKETED.finditer(text))
    if not bracketed:
        raise Unparsable("no winner", text)
    last = bracketed[-1]
    return Place(last[1], last.start(1), last.end(1))


def pairs_to_judge(k: int, degree: int, rng: np.random.Generator) -> Ints:
    """Which pairs of `k` responses to judge: (m, 2) positions, a < b, sorted.

    All of them for k <= 5 or degree >= k - 1. Else each response meets `degree` others, one more
    where both k and degree are odd, and the graph is connected: a circulant graph on a random
    order of the responses, of those drawn the one whose scores have the smallest mean variance
    (A-optimal: the smallest sum of inverse eigenvalues of the Laplacian).

    Raises ValueError if degree < 2, which connects nothing.
    """
    if degree < 2:
        raise ValueError(f"degree is at least 2, not {degree}")
    degree += (degree % 2) * (k % 2)
    if k <= ALL_PAIRS_UP_TO or degree >= k - 1:
        return np.array(list(combinations(range(k), 2)), dtype=np.int64).reshape(-1, 2)
    steps = _best_steps(k, degree, rng)
    order = rng.permutation(k)
    pairs = {
        (min(a, b), max(a, b))
        for step in steps
        for a, b in zip(order.tolist(), np.roll(order, -step).tolist(), strict=True)
    }
    return np.array(sorted(pairs), dtype=np.int64)


def pairwise_scores(
    prompt_of_response: Ints, a: Ints, b: Ints, p: Floats, v_swap: Floats
) -> tuple[Floats, Floats]:
    """A score for each response and its variance by the judge's doubt: two arrays (n_responses,).

    `prompt_of_response` (n_responses,) numbers the prompts; `a` and `b` (m,) are positions of
    responses, `p` (m,) is P(a is better) and `v_swap` (m,) as in PairJudgement, NaN where unknown:
    so is then the variance of every score that the gap is part of. The scores of a
    prompt minimise sum (s_a - s_b - (2 p - 1))^2 and have mean 0: with all pairs of K judged,
    s = (K - 1) / K * (2 * mean P(it wins) - 1). So they order and space the responses of one
    prompt and say nothing of one prompt against another; on a data map the mean is 0 throughout.

    The variance carries that of each gap 2 p - 1, which is v_swap, through the same least squares.
    It holds the doubt between the orders only: neither circles (a over b over c over a) nor what
    the two orders get wrong together.

    Scores of pieces of a graph that no pair joins have no common origin. Those of the largest
    piece stand, all others are NaN, and all are NaN where two pieces are equally large. A response
    that was not judged is NaN.

    Raises ValueError if a pair crosses prompts, joins a response to itself, or p is no probability.
    """
    _check_judgements(prompt_of_response, a, b, p, v_swap)
    n = len(prompt_of_response)
    score, variance = np.full(n, np.nan), np.full(n, np.nan)
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(n, n))
    _, piece = connected_components(graph, directed=False)
    stands = _largest_piece(prompt_of_response, piece)
    rows = np.flatnonzero(stands[piece[a]])
    rows = rows[np.argsort(piece[a[rows]], kind="stable")]
    cuts = np.flatnonzero(np.diff(piece[a[rows]])) + 1
    for of_piece in np.split(rows, cuts) if len(rows) else []:
        members, ends = np.unique(np.stack([a[of_piece], b[of_piece]]), return_inverse=True)
        ends = ends.reshape(2, -1)
        score[members], variance[members] = potential(
            len(members), ends[0], ends[1], 2 * p[of_piece] - 1, v_swap[of_piece]
        )
    return score, variance


def potential(k: int, a: Ints, b: Ints, gap: Floats, gap_variance: Floats) -> tuple[Floats, Floats]:
    """The s (k,) of mean 0 that minimises sum (s_a - s_b - gap)^2, and the variance of each.

    `gap_variance` (m,) is the variance of each gap, NaN where it is unknown; gaps are independent,
    scores are not: the variance of a difference of two is not the sum of theirs. The variance of a
    score that an unknown one is part of is NaN. The graph is connected.
    """
    m = len(a)
    incidence = np.zeros((m, k))
    incidence[np.arange(m), a] += 1.0
    incidence[np.arange(m), b] -= 1.0
    # The Laplacian is singular along the constants; with them filled in, its inverse is exact
    # on all that has mean 0, and every gap has.
    laplacian = incidence.T @ incidence
    solve = np.linalg.solve(laplacian + 1.0 / k, incidence.T)
    unknown = np.isnan(gap_variance)
    variance = np.square(solve) @ np.where(unknown, 0.0, gap_variance)
    variance[np.any(np.abs(solve[:, unknown]) > NO_PART, axis=1)] = np.nan
    return solve @ gap, variance


def _largest_piece(prompt_of_response: Ints, piece: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether each piece (n_pieces,) is its prompt's only largest, and of two responses or more."""
    size = np.bincount(piece)
    prompt = np.zeros(len(size), dtype=np.int64)
    prompt[piece] = prompt_of_response
    n_prompts = int(prompt_of_response.max(initial=-1)) + 1
    largest = np.zeros(n_prompts, dtype=np.int64)
    np.maximum.at(largest, prompt, size)
    top = size == largest[prompt]
    alone = np.bincount(prompt[top], minlength=n_prompts) == 1
    return np.asarray(top & alone[prompt] & (size > 1), dtype=np.bool_)


def _check_judgements(
    prompt_of_response: Ints, a: Ints, b: Ints, p: Floats, v_swap: Floats
) -> None:
    if not len(a) == len(b) == len(p) == len(v_swap):
        raise ValueError(f"{len(a)}, {len(b)}, {len(p)} and {len(v_swap)} ends and judgements")
    if np.any(a == b) or np.any(prompt_of_response[a] != prompt_of_response[b]):
        raise ValueError("a judgement is of two responses to one prompt")
    known = v_swap[~np.isnan(v_swap)]
    if not (np.all((p >= 0) & (p <= 1)) and np.all((known >= 0) & (known <= 1))):
        raise ValueError("p and v_swap are numbers from 0 to 1")


def _best_steps(k: int, degree: int, rng: np.random.Generator) -> list[int]:
    """Steps of a connected circulant graph of `k` vertices: i is joined to i + step, modulo k."""
    half = [k // 2] if degree % 2 else []  # the one step that adds a single neighbour; k is even
    free = np.arange(1, (k + 1) // 2)
    best, least = list(range(1, degree // 2 + 1)) + half, math.inf
    for _ in range(DESIGNS_TRIED):
        steps = [*rng.choice(free, size=degree // 2, replace=False).tolist(), *half]
        if math.gcd(k, *steps) > 1:
            continue
        inverse = _sum_of_inverse_eigenvalues(k, steps)
        if inverse < least:
            best, least = steps, inverse
    return best


def _sum_of_inverse_eigenvalues(k: int, steps: list[int]) -> float:
    """Of the Laplacian of a connected circulant graph, leaving out the zero (Gray 2006, s. 3.1)."""
    waves = 1.0 - np.cos(2 * np.pi * np.outer(np.arange(1, k), steps) / k)
    weight = np.where(2 * np.array(steps) == k, 1.0, 2.0)  # half a turn gives one edge, not two
    return float(np.sum(1.0 / (waves @ weight)))
