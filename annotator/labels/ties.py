"""How likely a tie is: pairs differ in that beyond how close they are.

The vote model has ties where two responses are about equally good. People also call a tie where
they are too alike to compare, or both wrong, so of two pairs equally close one draws many ties and
the other none: on real votes the share of ties rises by about a tenth with every tie among the four
votes before. A pair's own share is therefore Beta distributed about the vote model's; its votes
then give (k p + ties) / (k + votes), with k such that each vote is best foretold by the others on
its pair (the beta-binomial's predictive probability; Griffiths, Biometrics 29, 1973).
"""

from __future__ import annotations

import numpy as np

from strategies.within_prompt import Bools, Floats, Positions

# Votes that the vote model's share is worth; the last says that pairs differ in nothing else.
WORTH = np.append(np.geomspace(0.25, 256.0, 41), 1e9)
SMALLEST = 1e-12


def tie_beliefs(tie: Floats, pair: Positions, tied: Bools, weight: Floats) -> Floats:
    """The probability that one more careful vote on each pair is a tie, (n_pairs,).

    `tie` (n_pairs,) the same by the vote model, after the pair's own votes: what they say of d is
    in it, and the worth of it is a little too high for that. Of every vote `pair`, whether it is
    `tied`, and `weight` (n_votes,), the probability that its annotator looked.
    """
    n_pairs = len(tie)
    ties, votes = np.zeros(n_pairs), np.zeros(n_pairs)
    np.add.at(ties, pair, weight * tied)
    np.add.at(votes, pair, weight)
    worth = _worth(tie, pair, tied, weight, ties, votes)
    found: Floats = (worth * tie + ties) / (worth + votes)
    return found


def _worth(
    tie: Floats, pair: Positions, tied: Bools, weight: Floats, ties: Floats, votes: Floats
) -> float:
    """The one of WORTH with which the votes foretell each other best."""
    others = votes[pair] - weight
    told = others > SMALLEST
    of_pair, is_tie, counts = tie[pair[told]], tied[told], weight[told]
    others, its_ties = others[told], (ties[pair] - weight * tied)[told]
    best, highest = float(WORTH[-1]), -np.inf
    for worth in WORTH[::-1]:  # the plainest of equals
        chance = (worth * of_pair + its_ties) / (worth + others)
        said = np.where(is_tie, chance, 1.0 - chance)
        likelihood = float(counts @ np.log(np.maximum(said, SMALLEST)))
        if likelihood > highest + SMALLEST:
            best, highest = float(worth), likelihood
    return best
