"""One more vote, without fitting everything again.

The votes on other prompts say of w what they said before: a normal distribution with precision H0,
which is the precision H less what this prompt's votes said. Under it and their own terms, the
prompt's rewards have a normal prior in K - 1 dimensions, with the contrasts C of their features

    mean C w0,        covariance C H0^-1 C' + own I,

so the prompt's mode is a search in K - 1 dimensions, by the same steps as the whole one. What its
votes say then takes the place in H of what they said. With S = C H^-1 C', C' N C what they said of
w, C' q what they pulled it by, and by Woodbury's identity,

    C H0^-1 C' = (I - S N)^-1 S,        C w0 = (I - S N)^-1 (C w - S q).

This is one pass of expectation propagation's outer loop with Laplace's approximation inside
(Rasmussen and Williams 2006, section 3.6, for the cavity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular

from annotator.errors import PreferenceError
from annotator.preference.features import ResponseFeatures
from annotator.preference.laplace import Approximation, BlockStep, Sites, System, find_mode
from annotator.preference.layout import Block, Layout, contrasts_of, helmert
from annotator.preference.votes import GRADES, Vote
from strategies.within_prompt import Floats, Positions

TAIL_ROWS = 128  # rows of features up to which the last block takes in one more prompt


def with_vote(
    approximation: Approximation, features: ResponseFeatures, vote: Vote
) -> Approximation:
    """The approximation after one more vote; what its own prompt's votes say is found anew.

    Raises PreferenceError if the responses do not exist or answer two prompts.
    """
    prompt = _prompt(features, vote)
    layout = _with_row(approximation.system.layout, vote)
    members = np.flatnonzero(features.prompt_of_response[layout.labelled] == prompt)
    new = _block(layout, features, members)
    old = _Before.of(approximation, members)
    sites = _sites(approximation, layout, new, old)
    step = BlockStep.of(layout, new, sites)
    change = step.information[0] - old.information
    matrix = approximation.matrix + (new.flat.T @ (change @ new.flat)).T
    target = approximation.target + (step.target[0] - old.target) @ new.flat
    blocks, steps = _exchanged(approximation.system, old, new, step)
    return Approximation.of(System(replace(layout, blocks=blocks), sites, steps), matrix, target)


@dataclass(frozen=True, eq=False)
class _Before:
    """What the prompt's votes said before: `information` N (K - 1, K - 1) and `target` q (K - 1,),
    in the basis of the responses that have a vote now; 0 where it had none.

    `block` and `row`: where it stands, None if nowhere.
    """

    block: int | None
    row: int
    information: Floats
    target: Floats

    @classmethod
    def of(cls, approximation: Approximation, members: Positions) -> _Before:
        """Of the prompt whose labelled responses have these places now."""
        k = len(members)
        for number, block in enumerate(approximation.system.layout.blocks):
            row = np.flatnonzero(block.rows[:, 0] == members[0])
            if len(row):
                step, at = approximation.system.steps[number], int(row[0])
                seen = np.eye(k)[np.searchsorted(members, block.rows[at])]
                into = helmert(block.k).T @ seen @ helmert(k)
                information = into.T @ step.information[at] @ into
                return cls(number, at, information, step.target[at] @ into)
        return cls(None, -1, np.zeros((k - 1, k - 1)), np.zeros(k - 1))


def _prompt(features: ResponseFeatures, vote: Vote) -> int:
    n, ends = features.n_responses, (vote.a, vote.b)
    if not 0 <= min(ends) <= max(ends) < n:
        raise PreferenceError(
            f"the vote is on the responses {vote.a} and {vote.b}",
            expected=f"positions of the {n} responses",
        )
    of_a, of_b = (int(features.prompt_of_response[end]) for end in ends)
    if of_a != of_b:
        raise PreferenceError(
            f"the vote is on responses to the prompts {of_a} and {of_b}",
            expected="two responses to the same prompt",
        )
    return of_a


def _with_row(layout: Layout, vote: Vote) -> Layout:
    """The layout with the vote counted; responses, pairs and rows that are new stand last."""
    low, high = min(vote.a, vote.b), max(vote.a, vote.b)
    layout, place_a = _with_response(layout, low)
    layout, place_b = _with_response(layout, high)
    layout, pair = _with_pair(layout, place_a, place_b)
    five = np.zeros((1, len(GRADES)))
    five[0, (vote.grade if vote.a == low else -vote.grade) + 2] = 1.0
    counts, own = layout.model.counts(five), layout.model.lapse
    lapse = layout.lapse
    if lapse is None and vote.lapse is not None:
        lapse = np.full(len(layout.counts), own)
    if lapse is None:
        same = layout.pair_of_row == pair
    else:
        its = own if vote.lapse is None else vote.lapse
        same = (layout.pair_of_row == pair) & (lapse == its)
    if same.any():
        return replace(layout, counts=layout.counts + same[:, None] * counts, lapse=lapse)
    return replace(
        layout,
        pair_of_row=np.append(layout.pair_of_row, pair),
        counts=np.concatenate((layout.counts, counts)),
        lapse=None if lapse is None else np.append(lapse, its),
    )


def _with_response(layout: Layout, position: int) -> tuple[Layout, int]:
    place = np.flatnonzero(layout.labelled == position)
    if len(place):
        return layout, int(place[0])
    labelled = np.append(layout.labelled, position)
    return replace(layout, labelled=labelled), len(labelled) - 1


def _with_pair(layout: Layout, a: int, b: int) -> tuple[Layout, int]:
    pair = np.flatnonzero((layout.a == a) & (layout.b == b))
    if len(pair):
        return layout, int(pair[0])
    return replace(layout, a=np.append(layout.a, a), b=np.append(layout.b, b)), layout.n_pairs


def _block(layout: Layout, features: ResponseFeatures, members: Positions) -> Block:
    """The prompt alone, as a block."""
    inside = np.zeros(len(layout.labelled), dtype=np.bool_)
    inside[members] = True
    pairs = np.flatnonzero(inside[layout.a])
    contrasts = contrasts_of(features, layout.prior, layout.labelled[members][None])
    return Block.of(members[None], contrasts, pairs, layout.a[pairs], layout.b[pairs])


def _sites(approximation: Approximation, layout: Layout, new: Block, old: _Before) -> Sites:
    """All pairs' sites, the prompt's own at its mode given what other votes say of w."""
    local = _alone(layout, new, *_cavity(approximation, new, old))
    found, before = find_mode(local).system.sites, approximation.system.sites
    fisher, aim = np.zeros((2, layout.n_pairs))
    fisher[: len(before.fisher)], aim[: len(before.aim)] = before.fisher, before.aim
    fisher[new.pairs], aim[new.pairs] = found.fisher, found.aim
    return Sites(fisher, aim, 1.0 + layout.prior.pair * fisher)


def _cavity(approximation: Approximation, new: Block, old: _Before) -> tuple[Floats, Floats]:
    """Mean (K - 1,) and a root (K - 1, K - 1) of the covariance of C w, without this prompt."""
    root = solve_triangular(approximation.factor, new.flat.T, lower=True, check_finite=False)
    inner = root.T @ root
    freed = np.linalg.inv(np.eye(len(inner)) - inner @ old.information)
    mean = freed @ (new.flat @ approximation.w - inner @ old.target)
    covariance = freed @ inner
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    return mean, vectors * np.sqrt(np.maximum(values, 0.0))


def _alone(layout: Layout, new: Block, mean: Floats, root: Floats) -> Layout:
    """The layout of the prompt's votes alone, w standing for K - 1 independent weights."""
    rows = np.flatnonzero(np.isin(layout.pair_of_row, new.pairs))
    members = new.rows[0]
    a, b = (np.searchsorted(members, ends[new.pairs]) for ends in (layout.a, layout.b))
    everything = np.arange(new.k)[None], np.arange(len(new.pairs))
    return replace(
        layout,
        labelled=layout.labelled[members],
        a=a,
        b=b,
        pair_of_row=np.searchsorted(new.pairs, layout.pair_of_row[rows]),
        counts=layout.counts[rows],
        lapse=None if layout.lapse is None else layout.lapse[rows],
        blocks=[Block.of(everything[0], root[None], everything[1], a, b, mean[None])],
        n_features=len(mean),
    )


def _exchanged(
    system: System, old: _Before, new: Block, step: BlockStep
) -> tuple[list[Block], Sequence[BlockStep]]:
    """The blocks and steps with the prompt's new ones in place of what it had."""
    blocks, steps = list(system.layout.blocks), list(system.steps)
    if old.block is not None:
        kept = np.arange(len(blocks[old.block].rows)) != old.row
        blocks[old.block] = blocks[old.block].select(kept)
        steps[old.block] = steps[old.block].select(kept)
        if not kept.any():
            del blocks[old.block], steps[old.block]
    tail = blocks[-1] if blocks else None
    if tail is not None and tail.k == new.k and tail.n_rows + new.n_rows <= TAIL_ROWS:
        blocks[-1], steps[-1] = tail.joined(new), steps[-1].joined(step)
    else:
        blocks.append(new)
        steps.append(step)
    return blocks, steps
