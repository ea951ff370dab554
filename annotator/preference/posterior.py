"""What is believed of every response's reward after some votes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dtrtri
from scipy.special import ndtr

from annotator.errors import PreferenceError
from annotator.preference.features import ResponseFeatures
from annotator.preference.laplace import Approximation, find_mode, places_of
from annotator.preference.layout import Block, Layout, Prior, check_finite, helmert
from annotator.preference.one_more_vote import with_vote
from annotator.preference.vote_model import Expected, VoteModel
from annotator.preference.votes import Tally, Vote
from strategies.within_prompt import Bools, Floats, Positions, Vectors, rows_of_equal_length

BLOCK_PAIRS = 4096
BLOCK_RESPONSES = 4096
SMALLEST_VARIANCE = 1e-12
SMALLEST_SHARE = 1e-6  # of a variance, that rounding may leave
KEEP_BYTES = 1 << 30  # of loadings, that a question about most responses leaves behind


@dataclass(frozen=True, eq=False)
class Rewards:
    """The joint normal distribution of the rewards of n responses.

    `mean` (n,); the covariance of two rewards is the dot product of their rows of `loadings`
    (n, factors) plus, for responses to one prompt, that of their rows of `own_loadings` (n, K),
    K being the most responses that a prompt has here. Rewards of a prompt have no common origin:
    only differences within a prompt mean anything.
    """

    mean: Floats
    loadings: Vectors
    own_loadings: Vectors

    def take(self, places: Positions) -> Rewards:
        """The same of the responses at these places."""
        return Rewards(self.mean[places], self.loadings[places], self.own_loadings[places])

    def variances(self, a: Positions, b: Positions) -> Floats:
        """Var(r_a - r_b) of responses to one prompt, at these places, (n_pairs,)."""
        shared = self.loadings[a] - self.loadings[b]
        own = self.own_loadings[a] - self.own_loadings[b]
        found: Floats = np.vecdot(shared, shared) + np.vecdot(own, own)
        return found

    def differences(self, a: Positions, b: Positions, prompt: Positions) -> RewardDifferences:
        """r_a - r_b of pairs at these places, which answer these prompts, as one distribution."""
        return RewardDifferences(
            self.mean[a] - self.mean[b],
            self.loadings[a] - self.loadings[b],
            self.own_loadings[a] - self.own_loadings[b],
            prompt,
        )


@dataclass(frozen=True, eq=False)
class RewardDifferences:
    """The joint normal distribution of r_a - r_b of n pairs, the pairs' own terms left out.

    `mean` (n,); `shared` (n, factors) and `own` (n, K): the covariance of two of them is the dot
    product of their rows of `shared` plus, where `prompt` (n,) is the same, that of `own`.
    """

    mean: Floats
    shared: Vectors
    own: Vectors
    prompt: Positions

    def covariance(self, other: RewardDifferences) -> Floats:
        """Of each of these with each of the others, (n, n_others)."""
        own = self.own @ other.own.T
        own[self.prompt[:, None] != other.prompt] = 0.0
        found: Floats = (self.shared @ other.shared.T + own).astype(np.float64)
        return found


@dataclass(frozen=True, eq=False)
class Differences:
    """The normal distribution of d = r_a - r_b + the pair's own term, for n pairs.

    `mean` and `variance` (n,) of d. `share` is the part of the uncertainty of r_a - r_b that is
    left in d, 1 for a pair without votes, and `own_variance` what the pair's own term adds:
    variance = share^2 Var(r_a - r_b) + own_variance.
    """

    mean: Floats
    variance: Floats
    share: Floats
    own_variance: Floats

    @property
    def error(self) -> Floats:
        """The probability that the pair's mean has the wrong sign, 0 to 0.5."""
        wrong: Floats = ndtr(-np.abs(self.mean) / np.sqrt(self.variance))
        return wrong


class Posterior:
    """The joint posterior of all rewards: Laplace's approximation at the mode, `approximation`.

    Pairs are named by the positions of their responses, a and b (n,), in any order. Nothing is
    computed of responses that nobody asks about: memory goes with the votes and the question, and
    with the pool only in `rewards()` and in questions about most of its responses.
    """

    def __init__(self, features: ResponseFeatures, approximation: Approximation) -> None:
        layout = approximation.system.layout
        self.features = features
        self.prior, self.model = layout.prior, layout.model
        self.approximation, self._layout = approximation, layout
        self._rewards: Rewards | None = None

    @property
    def evidence(self) -> float:
        """The log marginal likelihood of the votes, nats."""
        return self.approximation.evidence

    @property
    def weights(self) -> Floats:
        """The mode of w, (f,): weights of the features times their prior deviations."""
        return self.approximation.w

    @property
    def system_factor(self) -> Floats:
        """The lower Cholesky factor of the precision of w, (f, f)."""
        return self.approximation.factor

    def with_vote(self, a: int, b: int, grade: int, lapse: float | None = None) -> Posterior:
        """The posterior after one more vote, in a fraction of the time of fitting again.

        `grade` as in Votes, `lapse` None for the vote model's. The votes on the vote's own prompt
        are approximated anew, those on other prompts keep their approximation; everything believed
        moves. It is close to a refit after one vote, less so after hundreds. Raises PreferenceError
        as Votes does, and if the responses answer two prompts.
        """
        vote = Vote(a, b, grade, lapse)
        return Posterior(self.features, with_vote(self.approximation, self.features, vote))

    def rewards(self) -> Rewards:
        """The joint distribution of all rewards, computed once and kept: 4 (f + K) bytes each."""
        if self._rewards is None:
            self._rewards = self._rewards_of(np.arange(self.features.n_responses))
        return self._rewards

    def rewards_of(self, positions: Positions) -> Rewards:
        """The joint distribution of these responses' rewards, in their order."""
        if self._rewards is not None:
            return self._rewards.take(positions)
        asked, places = np.unique(positions, return_inverse=True)
        whole = np.union1d(asked, self._layout.labelled[self._of_prompts(asked)])
        return self._rewards_of(whole).take(np.searchsorted(whole, asked)[places.ravel()])

    @cached_property
    def reward_mean(self) -> Floats:
        """The posterior mean of every reward, (n_responses,)."""
        if self._rewards is not None:
            return self._rewards.mean
        mean = np.empty(self.features.n_responses)
        for at, phi in self._weighed(np.arange(self.features.n_responses)):
            mean[at] = phi @ self.weights
        mean[self._layout.labelled] += self.prior.own * self.approximation.state.own
        return mean

    def differences(self, a: Positions, b: Positions) -> Differences:
        """The distribution of the pairs' differences."""
        difference, variance = np.empty(len(a)), np.empty(len(a))
        for at, rewards, of_a, of_b in self._in_blocks(a, b):
            difference[at] = rewards.mean[of_a] - rewards.mean[of_b]
            variance[at] = rewards.variances(of_a, of_b)
        share, own_term = self._of_pairs(a, b, difference)
        own_variance = self.prior.pair * share
        return Differences(
            mean=difference + own_term,
            variance=np.maximum(share**2 * variance + own_variance, SMALLEST_VARIANCE),
            share=share,
            own_variance=own_variance,
        )

    def before_votes(self, a: Positions, b: Positions) -> tuple[Floats, Floats]:
        """Mean and variance of d of each pair, what its own votes say taken out, (n,) each.

        The pair's own term is included. Votes on other pairs count as they are approximated here,
        so nothing is fitted again: the cavity of expectation propagation (Rasmussen and Williams
        2006, equation 3.56). Of a pair without votes it is what `differences` says.
        """
        difference, variance = np.empty(len(a)), np.empty(len(a))
        for at, rewards, of_a, of_b in self._in_blocks(a, b):
            difference[at] = rewards.mean[of_a] - rewards.mean[of_b]
            variance[at] = rewards.variances(of_a, of_b)
        return self._without_own(a, b, difference, variance, *self._pairs_of(a, b))

    def before_votes_on(
        self, gone_a: Positions, gone_b: Positions, a: Positions, b: Positions
    ) -> tuple[Floats, Floats]:
        """The same as `before_votes` had the votes on the pairs gone_a, gone_b never been cast.

        Nothing is fitted again here either: the votes that are left keep their approximation. With
        a twentieth of the votes gone that is close to a fit without them. Raises PreferenceError if
        a pair is named twice among those gone.
        """
        gone, its_site = self._pairs_of(gone_a, gone_b)
        if len(np.unique(gone[its_site])) < len(its_site):
            raise PreferenceError("a pair is taken out twice", expected="distinct pairs")
        sites = self.approximation.system.sites
        out_a, out_b = np.sort(np.stack((gone_a, gone_b))[:, its_site], axis=0)
        site = gone[its_site]
        ends, places = np.unique(np.concatenate((a, b, out_a, out_b)), return_inverse=True)
        of_a, of_b, of_out_a, of_out_b = np.split(places, np.cumsum([len(a), len(b), len(out_a)]))
        rewards, prompts = self.rewards_of(ends), self.features.prompt_of_response
        asked = rewards.differences(of_a, of_b, prompts[a])
        out = rewards.differences(of_out_a, of_out_b, prompts[out_a])
        weight = sites.weight[site]
        left = np.eye(len(site)) - weight[:, None] * out.covariance(out)
        shared = asked.covariance(out)
        pull = weight * out.mean - sites.pull[site]
        solved = np.linalg.solve(left, np.column_stack((pull, weight[:, None] * shared.T)))
        difference = asked.mean + shared @ solved[:, 0]
        variance = rewards.variances(of_a, of_b) + np.vecdot(shared, solved[:, 1:].T)
        # Their own votes are out by now where they are gone.
        pair, known = self._pairs_of(a, b)
        known = known[~np.isin(pair[known], site)]
        return self._without_own(a, b, difference, variance, pair, known)

    def expected(self, a: Positions, b: Positions) -> Expected:
        """What one more vote on each pair would say."""
        differences = self.differences(a, b)
        return self.model.expected(differences.mean, differences.variance)

    def preferred(self, a: Positions, b: Positions) -> Floats:
        """P(a is preferred, given that it is no tie), (n,)."""
        return self.expected(a, b).preferred

    def variance(self, a: Positions, b: Positions) -> Floats:
        """The variance of each difference, (n,)."""
        return self.differences(a, b).variance

    def information(self, a: Positions, b: Positions) -> Floats:
        """Nats that one vote on the pair tells of its difference, (n,)."""
        return self.expected(a, b).information

    def error(self, a: Positions, b: Positions) -> Floats:
        """The probability that the sign of the mean difference is wrong, (n,), 0 to 0.5."""
        return self.differences(a, b).error

    def _without_own(
        self,
        a: Positions,
        b: Positions,
        difference: Floats,
        variance: Floats,
        pair: Positions,
        known: Positions,
    ) -> tuple[Floats, Floats]:
        """Mean and variance of d without the votes of the pairs `known`, by those of r_a - r_b."""
        sites, pair = self.approximation.system.sites, pair[known]
        turned = np.where(a[known] > b[known], -1.0, 1.0)
        # In r_a - r_b, not in d: there the pair's own term keeps what votes say below its inverse,
        # and nothing cancels however many there are.
        left = np.maximum(1.0 - sites.weight[pair] * variance[known], SMALLEST_SHARE)
        difference[known] -= variance[known] * turned * sites.pull[pair]
        difference[known] /= left
        variance[known] /= left
        return difference, np.maximum(variance + self.prior.pair, SMALLEST_VARIANCE)

    def _in_blocks(
        self, a: Positions, b: Positions
    ) -> Iterator[tuple[Positions, Rewards, Positions, Positions]]:
        """Blocks of the pairs, with rewards and the places in them of both responses."""
        ends = np.concatenate((a, b))
        factors = self._layout.n_features
        most = 2 * len(np.unique(ends)) > self.features.n_responses
        if most and 4 * factors * self.features.n_responses < KEEP_BYTES:
            self.rewards()
        # Pairs of one prompt together: then a response is in one block, or in two.
        order = np.argsort(self.features.prompt_of_response[a], kind="stable")
        for start in range(0, len(a), BLOCK_PAIRS):
            at = order[start : start + BLOCK_PAIRS]
            if self._rewards is not None:
                yield at, self._rewards, a[at], b[at]
                continue
            asked, places = np.unique(np.concatenate((a[at], b[at])), return_inverse=True)
            yield at, self.rewards_of(asked), places[: len(at)], places[len(at) :]

    def _of_pairs(self, a: Positions, b: Positions, difference: Floats) -> tuple[Floats, Floats]:
        """Of each pair: share, and the mean of its own term, given the mean of r_a - r_b."""
        share, own_term = np.ones(len(a)), np.zeros(len(a))
        pair, known = self._pairs_of(a, b)
        sites, pair = self.approximation.system.sites, pair[known]
        turned = np.where(a[known] > b[known], -1.0, 1.0)
        share[known] = 1.0 / sites.damped[pair]
        seen = turned * sites.aim[pair] - sites.fisher[pair] * difference[known]
        own_term[known] = self.prior.pair * seen * share[known]
        return share, own_term

    def _pairs_of(self, a: Positions, b: Positions) -> tuple[Positions, Positions]:
        """Which pair of the layout each of these is, and which of them are one."""
        n = self.features.n_responses
        pair = places_of(np.minimum(a, b) * n + np.maximum(a, b), self._layout.codes(n))
        return pair, np.flatnonzero(pair >= 0)

    def _of_prompts(self, positions: Positions) -> Bools:
        """Which labelled responses answer the prompts that these answer."""
        prompts = self.features.prompt_of_response
        asked = np.zeros(int(prompts.max()) + 1 if len(prompts) else 0, dtype=np.bool_)
        asked[prompts[positions]] = True
        return asked[prompts[self._layout.labelled]]

    def _weighed(self, positions: Positions) -> Iterator[tuple[slice, Floats]]:
        """Slices of the positions, with the weighed features of each."""
        for start in range(0, len(positions), BLOCK_RESPONSES):
            at = slice(start, start + BLOCK_RESPONSES)
            phi = self.prior.weigh(self.features.rows(positions[at]))
            check_finite(phi.sum(axis=1), positions[at])
            yield at, phi

    def _rewards_of(self, positions: Positions) -> Rewards:
        """The rewards of these responses, ascending; with a labelled one all of its prompt's."""
        mean = np.empty(len(positions))
        loadings = np.empty((len(positions), self._layout.n_features), dtype=np.float32)
        few = len(positions) < self._layout.n_features
        for at, phi in self._weighed(positions):
            mean[at] = phi @ self.weights
            # F H^-1 F' with H = C C': the rows of F C^-T. They are float32 in the end.
            if few:
                loadings[at] = solve_triangular(self.system_factor, phi.T, lower=True).T
            else:
                np.matmul(phi.astype(np.float32), self._root, out=loadings[at])
        slot = _slots(self.features.prompt_of_response[positions])
        own = np.zeros((len(slot), int(slot.max(initial=-1)) + 1), dtype=np.float32)
        own[np.arange(len(slot)), slot] = np.sqrt(self.prior.own)
        for block, places, left, shift in self._labelled_of(positions):
            mean[places] += shift @ helmert(block.k).T
            loadings[places] = left.astype(np.float32) @ loadings[places]
            own[places] = 0.0
            root_own = np.sqrt(self.prior.own) * np.linalg.cholesky(left)
            own[places[:, :, None], slot[places][:, None, :]] = root_own
        return Rewards(mean, loadings, own)

    @cached_property
    def _root(self) -> Vectors:
        """C^-T, where C C' is the precision of w, (f, f)."""
        inverse, _ = dtrtri(self.system_factor, lower=1)
        root: Vectors = inverse.T.astype(np.float32)
        return root

    def _labelled_of(
        self, positions: Positions
    ) -> Iterator[tuple[Block, Positions, Floats, Floats]]:
        """The prompts with votes among these responses: block, places, B and mean own terms.

        With B = A^-1 (m, K, K) the loadings of the labelled responses of a prompt become
        B loadings, and their own terms keep the covariance own B; `shift` (m, K - 1) are the means
        of these terms, in Helmert's basis. Of all other responses both stay what they were.
        """
        layout, system = self._layout, self.approximation.system
        place_of = np.full(self.features.n_responses, -1)
        place_of[positions] = np.arange(len(positions))
        for block, step in zip(layout.blocks, system.steps, strict=True):
            places = place_of[layout.labelled[block.rows]]
            kept = np.flatnonzero(places[:, 0] >= 0)
            if not len(kept):
                continue
            basis, its = helmert(block.k), step.select(kept)
            left = basis @ its.shrink @ basis.T + 1.0 / block.k
            _, own = its.rewards(layout.prior.own, block.contrasts[kept] @ self.weights)
            left = 0.5 * (left + left.swapaxes(1, 2))
            yield block, places[kept], left, layout.prior.own * own


def fit_posterior(
    features: ResponseFeatures,
    votes: Tally,
    prior: Prior,
    model: VoteModel,
    start: Posterior | None = None,
) -> Posterior:
    """The posterior after these votes, with this prior and this vote model.

    `start`: an earlier posterior on the same features, where the search begins: quicker, and the
    same result. Raises PreferenceError if a vote joins two prompts or is on no response there is,
    or if features are not finite.
    """
    layout = Layout.of(features, prior, model, votes)
    return Posterior(features, find_mode(layout, None if start is None else start.approximation))


def _slots(prompts: Positions) -> Positions:
    """The place of each response among those of its prompt, (n,)."""
    slot = np.zeros(len(prompts), dtype=np.int64)
    for rows in rows_of_equal_length(prompts):
        slot[rows] = np.arange(rows.shape[1])
    return slot
