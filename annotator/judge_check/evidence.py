"""What a check is made of, as arrays: scores, and what people said of pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from annotator.signals.judges.panel import Panel, mean_of_known
from annotator.signals.judges.trust import Verdicts, signs
from strategies.datamap import map_of_scores, regions
from strategies.within_prompt import Bools, Floats, Positions

Document = dict[str, Any]


@dataclass(frozen=True, eq=False)
class PairVotes:
    """What people said of each pair, once a pair: arrays (n_pairs,).

    `a` < `b` are positions of responses, `for_a`, `for_b` and `tied` numbers of votes.
    """

    a: Positions
    b: Positions
    for_a: Positions
    for_b: Positions
    tied: Positions

    @classmethod
    def of(cls, first: Positions, second: Positions, grade: Positions) -> PairVotes:
        """Votes (n_votes,) counted; `grade` above 0 prefers `first`, 0 is a tie. Any order."""
        side = np.sign(np.where(first > second, -grade, grade))
        ends = np.stack((np.minimum(first, second), np.maximum(first, second)))
        pairs, which = np.unique(ends, axis=1, return_inverse=True)
        which = which.reshape(-1)
        counts = [np.bincount(which[side == s], minlength=pairs.shape[1]) for s in (1, -1, 0)]
        return cls(pairs[0], pairs[1], counts[0], counts[1], counts[2])

    @property
    def majority(self) -> Positions:
        """1 where more votes prefer a than b, -1 where fewer, 0 where as many, (n_pairs,)."""
        net: Positions = np.sign(self.for_a - self.for_b)
        return net

    @property
    def n_votes(self) -> int:
        return int((self.for_a + self.for_b + self.tied).sum())


@dataclass(frozen=True, eq=False)
class SwappedVerdicts:
    """Pairs that a judge was asked about twice, the sides swapped: (n,) prompts, and flips."""

    prompt: Positions
    flipped: Bools


@dataclass(frozen=True, eq=False)
class PairJudge:
    """A judge of pairs: its verdict on each of the evidence's pairs, (n_pairs,).

    `verdict` from -1, always b, to 1, always a, NaN where it gave none; `swapped` None where no
    pair was judged twice.
    """

    name: str
    verdict: Floats
    swapped: SwappedVerdicts | None


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that a check measures.

    - `panel` the judge or judges; `variance` (n_judges, n_responses) their doubt about each score,
      None where they gave none, and NaN for scores whose errors hang together. Where the panel is
      empty, `pair_judges` are the judges.
    - `prompt_of_response` (n_responses,), `log_length` (n_responses,) of the text's characters, NaN
      where the text is not there.
    - `pair_a`, `pair_b`, `people` (n_pairs,) the pairs that people spoke on, and their verdict: 1
      for a, -1 for b, 0 tied. `votes` behind it, None where it comes from scores that people gave,
      which are then in `people_score` (n_responses,).
    - `region` (n_prompts,) of the data map, `region_from` what that map was made of, in words.
    - `about` says whose votes these are; it goes into the document as it is.
    """

    panel: Panel
    prompt_of_response: Positions
    log_length: Floats
    pair_a: Positions
    pair_b: Positions
    people: Positions
    about: Document
    region: Positions
    region_from: str
    variance: Floats | None = None
    votes: PairVotes | None = None
    people_score: Floats | None = None
    swapped: SwappedVerdicts | None = None
    pair_judges: list[PairJudge] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n_prompts(self) -> int:
        return len(self.region)

    @property
    def prompt_of_pair(self) -> Positions:
        """(n_pairs,)"""
        return self.prompt_of_response[self.pair_a]

    def verdicts(self, gap: Floats) -> Verdicts:
        """People's verdicts beside these gaps, (n_pairs,)."""
        exact = np.where(np.isnan(gap) | (signs(gap) != 0), gap, 0.0)
        return Verdicts(self.n_prompts, self.prompt_of_pair, self.people, exact)

    def mean_gap(self) -> Floats:
        """The judges' mean gap of each pair, (n_pairs,); without scores, their mean verdict."""
        if self.panel.names:
            return self.panel.mean_gap(self.pair_a, self.pair_b)
        return mean_of_known(np.stack([judge.verdict for judge in self.pair_judges]))

    @property
    def judges(self) -> list[str]:
        """Whose gap that is."""
        return list(self.panel.names) or [judge.name for judge in self.pair_judges]

    def gap_variance(self) -> Floats | None:
        """The judges' own variance of their mean gap, (n_pairs,), were their errors independent.

        NaN where one of the judges told none, or none that can be added; None where nobody did.
        """
        if self.variance is None or not np.any(~np.isnan(self.variance)):
            return None
        of_scores: Floats = self.variance.sum(axis=0) / len(self.variance) ** 2
        gap: Floats = of_scores[self.pair_a] + of_scores[self.pair_b]
        return gap


def own_regions(score: Floats, prompt_of_response: Positions, seed: int) -> Positions:
    """The regions of the data map that these very scores make, (n_prompts,)."""
    placed = map_of_scores(score, prompt_of_response)
    tie_break = np.random.default_rng(seed).permutation(len(placed.mean))
    return regions(placed.mean, placed.variance, tie_break)


def log_lengths(n_characters: Floats) -> Floats:
    """The natural logarithm of each length, NaN for an empty text, (n,)."""
    logs: Floats = np.log(np.where(n_characters > 0, n_characters, np.nan))
    return logs
