"""Prior variances and the vote model's cuts, from the votes themselves: never from test answers.

The evidence, p(votes | settings), is what a setting says of the votes before it has seen them
(Rasmussen and Williams 2006, section 5.4.1). It is maximised, together with a wide log-normal
hyperprior around the defaults, so that ten votes cannot run away with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from annotator.preference.features import ResponseFeatures
from annotator.preference.laplace import Approximation, find_mode
from annotator.preference.layout import Layout, Prior
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import Tally
from strategies.within_prompt import Bools, Positions

HYPERPRIOR_DEVIATION = 0.7  # of the logarithm of every setting
FIRST_STEP = 0.7  # in the same logarithm
ROUNDS = 3
TOLERANCE = 1e-3  # nats that a step towards the mode may leave: settings differ by more
REPEATED_PAIRS = 40  # with two votes or more, from which on the pairs' own term is tuned too
LIMIT_ROWS = 1_000  # pairs; of more a sample of prompts tells as much


@dataclass(frozen=True)
class Setting:
    """Everything about the preference model that is not learned vote by vote."""

    prior: Prior = field(default_factory=Prior)
    model: VoteModel = field(default_factory=VoteModel)

    def moved(self, name: str, log_step: float) -> Setting:
        """The same setting with one number multiplied by exp(log_step)."""
        factor = float(np.exp(log_step))
        if name in ("tie", "gap"):
            tie, gap = self.model.tie, (self.model.much or self.model.tie) - self.model.tie
            tie, gap = (tie * factor, gap) if name == "tie" else (tie, gap * factor)
            much = None if self.model.much is None else tie + gap
            return replace(self, model=replace(self.model, tie=tie, much=much))
        return replace(
            self, prior=replace(self.prior, **{name: getattr(self.prior, name) * factor})
        )

    def logarithm(self, name: str) -> float:
        """The natural logarithm of the number of that name."""
        if name == "gap":
            assert self.model.much is not None
            return float(np.log(self.model.much - self.model.tie))
        return float(np.log(self.model.tie if name == "tie" else getattr(self.prior, name)))


def default_setting(votes: Tally) -> Setting:
    """The setting before any vote, with a cut for "much better" where votes have strength."""
    model = VoteModel()
    return Setting(Prior(), replace(model, much=model.tie + 1.2) if votes.has_strength else model)


def tuned(
    features: ResponseFeatures, votes: Tally, setting: Setting, rounds: int = ROUNDS
) -> Setting:
    """The setting of most evidence that a search from `setting` finds, one number at a time.

    The pairs' own term is left as it is where few pairs have several votes: with one vote a pair it
    cannot be told from noise.
    """
    sample = _sample(features, votes)
    centre = default_setting(votes)
    names = _names(features, setting)
    if np.count_nonzero(_votes_of_pairs(votes) >= 2) >= REPEATED_PAIRS:
        names.append("pair")

    reached: Approximation | None = None

    def worth(candidate: Setting) -> float:
        nonlocal reached
        layout = Layout.of(features, candidate.prior, candidate.model, sample)
        # The mode of a setting close by is a good place to begin.
        reached = find_mode(layout, reached, TOLERANCE)
        moved = [candidate.logarithm(name) - centre.logarithm(name) for name in names]
        return reached.evidence - 0.5 * sum((m / HYPERPRIOR_DEVIATION) ** 2 for m in moved)

    best, step = worth(setting), FIRST_STEP
    for _ in range(rounds):
        for name in names:
            for direction in (step, -step):
                candidate = setting.moved(name, direction)
                if (value := worth(candidate)) > best:
                    setting, best = candidate, value
                    break
        step /= 2.0
    return setting


def _votes_of_pairs(votes: Tally) -> Positions:
    """How many votes each pair has, whoever cast them, (n_pairs,)."""
    _, pair = np.unique(np.stack((votes.a, votes.b)), axis=1, return_inverse=True)
    return np.bincount(pair.ravel(), weights=votes.n_votes).astype(np.int64)


def _names(features: ResponseFeatures, setting: Setting) -> list[str]:
    names = ["own", "response", "product", "form"]
    names += ["model"] if features.n_models else []
    names += ["judge"] if features.n_judges else []
    names += ["tie"] if setting.model.much is None else ["tie", "gap"]
    return names


def _sample(features: ResponseFeatures, votes: Tally) -> Tally:
    """The votes on evenly spread prompts, of about LIMIT_ROWS pairs; all if there are fewer."""
    if len(votes.a) <= LIMIT_ROWS:
        return votes
    prompts, of_row = np.unique(features.prompt_of_response[votes.a], return_inverse=True)
    every = len(votes.a) / LIMIT_ROWS
    kept = np.zeros(len(prompts), dtype=np.bool_)
    kept[np.arange(0, len(prompts), every).astype(np.int64)] = True
    return _rows(votes, kept[of_row])


def _rows(votes: Tally, kept: Bools | Positions) -> Tally:
    lapse = None if votes.lapse is None else votes.lapse[kept]
    return Tally(votes.a[kept], votes.b[kept], votes.counts[kept], lapse)
