"""The signals that a strategy chooses by: scores, posterior, policy. Computed for it alone.

The preference model is fitted to every vote. In a large pool it is asked about a uniform sample of
the prompts without votes, some twenty thousand pairs, beside every prompt that has votes: working
out what a vote is worth costs the same for each pair, and a strategy that looks at fewer chooses
among fewer. The control arm is drawn from the whole pool, before this.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.labels.consensus_store import skills
from annotator.labels.votes import ARMS, CountedVotes, counted_votes
from annotator.progress import progress_bar
from annotator.rounds.believe import ensure_consensus
from annotator.rounds.features import features_of
from annotator.signals.datamap import ensure_map, response_scores

if TYPE_CHECKING:
    import numpy as np
    from sqlite_utils import Database

    from annotator.preference.votes import Votes
    from annotator.rounds.pool import CandidatePool
    from strategies.pool import Pool, PoolPart, Selection, Strategy
    from strategies.within_prompt import Bools, Floats

CANDIDATE_PAIRS = 20_000  # in prompts without votes, about
ENOUGH = 20  # and at least this many for every pair of the batch


class SignalledStrategy:
    """A strategy that computes, from whatever pool it is given, the signals that it needs.

    The pool has the responses of `candidates`, in their order.
    """

    def __init__(
        self, strategy: Strategy, db: Database, database_path: Path, candidates: CandidatePool
    ) -> None:
        from strategies.pool import signals_needed

        self._strategy, self._needed = strategy, signals_needed(strategy)
        self._db, self._database_path, self._candidates = db, database_path, candidates
        self.learned: dict[str, object] = {}  # what the preference model was fitted to and asked of

    def __call__(self, pool: Pool, n: int, rng: np.random.Generator) -> Selection:
        """The strategy's choice. Raises what it raises, PreferenceError and EncoderError."""
        if "scores" in self._needed:
            ensure_map(self._db, self._database_path, self._candidates.encoder_id)
            scores = response_scores(self._db, self._candidates.response_ids)
            pool = pool.with_signals(response_score=scores)
        if not self._needed & {"posterior", "policy"}:
            return self._strategy(pool, n, rng)
        votes = self._votes()
        looked_at, chance = sampled_prompts(pool, self._voted(pool, votes), n, rng)
        part = pool.of_prompts(looked_at)
        self.learned = {"n_votes": len(votes.grade), "n_looked_at": part.pool.n_eligible}
        selection = self._strategy(self._with_model(part, votes), n, rng)
        return _of_whole(selection, part, chance[pool.prompt_of_pair])

    def _votes(self) -> CountedVotes:
        """The votes on candidates; those on gold are for the people, not for the pairs."""
        import numpy as np

        votes = counted_votes(self._db)
        known = self._candidates.response_ids
        asked = votes.arm != ARMS.index("gold")
        return votes.take(asked & np.isin(votes.a_ids, known) & np.isin(votes.b_ids, known))

    def _voted(self, pool: Pool, votes: CountedVotes) -> Bools:
        """The prompts that have a vote, (n_prompts,)."""
        import numpy as np

        from annotator.preference.laplace import places_of

        voted = np.zeros(pool.n_prompts, dtype=np.bool_)
        places = places_of(votes.a_ids, self._candidates.response_ids)
        voted[pool.prompt_of_response[places]] = True
        return voted

    def _with_model(self, part: PoolPart, votes: CountedVotes) -> Pool:
        """The part's pool with the preference model's signals."""
        from annotator.preference.acquisition import votes_of_pairs, with_posterior
        from annotator.preference.learner import VERSION, Learner
        from annotator.preference.reward_head import with_reward_head
        from annotator.preference.tuning import Setting

        cast = self._cast(part, votes)
        features = features_of(
            self._db,
            self._database_path,
            self._candidates.encoder_id,
            self._candidates.response_ids[part.responses],
            self._candidates.prompt_ids[part.prompts],
            part.pool.response_vectors,
            part.pool.prompt_of_response,
            self._judged(part),
        )
        learner = Learner(features)
        with progress_bar(len(cast), "learn", "votes") as advance:
            posterior = learner.learn(cast)
            advance(len(cast))
        self.learned |= {"learner": VERSION, "setting": asdict(learner.setting or Setting())}
        pool = with_posterior(part.pool, posterior, votes_of_pairs(part.pool, cast))
        if "policy" in self._needed:
            pool = with_reward_head(pool, posterior, cast, votes.control)
        return pool

    def _judged(self, part: PoolPart) -> Floats | None:
        """The newest judge's scores of the part's responses, (n, 1); see scores.told_method."""
        from annotator.signals.scores import scores_by, told_method

        method = told_method(self._db)
        if method is None:
            return None
        self.learned |= {"scores": method}
        return scores_by(self._db, method, self._candidates.response_ids[part.responses])[:, None]

    def _cast(self, part: PoolPart, votes: CountedVotes) -> Votes:
        from annotator.preference.laplace import places_of
        from annotator.preference.votes import Votes

        ids = self._candidates.response_ids[part.responses]
        a, b = places_of(votes.a_ids, ids), places_of(votes.b_ids, ids)
        return Votes(a, b, votes.grade, self._lapses(votes))

    def _lapses(self, votes: CountedVotes) -> Floats | None:
        """How likely each vote was cast without looking, by whose it is; None if one votes alone.

        With nobody to compare with, an annotator's care cannot be told from the pairs' closeness.
        """
        import numpy as np

        people, of_vote = np.unique(votes.annotator_ids, return_inverse=True)
        if len(people) < 2:
            return None
        build = ensure_consensus(self._db, self._database_path, self._candidates.encoder_id)
        assert build is not None
        known, typical = skills(self._db), float(build.settings["lapse"])
        lapse = [1.0 - known[i].skill if i in known else typical for i in people.tolist()]
        return np.array(lapse)[of_vote.ravel()]


def sampled_prompts(
    pool: Pool, voted: Bools, n: int, rng: np.random.Generator
) -> tuple[Bools, Floats]:
    """The prompts to look at for n pairs, and the chance each had to be among them, (n_prompts,).

    Every prompt with votes, and of the others a uniform sample that is expected to hold
    CANDIDATE_PAIRS eligible pairs, or ENOUGH for each of the n. A sample that holds fewer than n,
    as may happen where few prompts hold all the pairs, is given up for the whole pool.
    """
    import numpy as np

    eligible = np.bincount(pool.prompt_of_pair[pool.pair_eligible], minlength=pool.n_prompts)
    fresh = np.flatnonzero(~voted & (eligible > 0))
    share = max(CANDIDATE_PAIRS, ENOUGH * n) / max(1, int(eligible[fresh].sum()))
    n_drawn = int(np.ceil(len(fresh) * min(1.0, share)))
    looked_at = voted.copy()
    looked_at[rng.choice(fresh, size=n_drawn, replace=False)] = True
    if n_drawn == len(fresh) or eligible[looked_at].sum() < n:
        return np.ones(pool.n_prompts, dtype=np.bool_), np.ones(pool.n_prompts)
    return looked_at, np.where(voted, 1.0, n_drawn / len(fresh))


def _of_whole(selection: Selection, part: PoolPart, chance_of_pair: Floats) -> Selection:
    """The same picks as positions of the whole pool's pairs, chances of the prompts included."""
    positions = part.pairs[selection.positions]
    propensities = selection.propensities * chance_of_pair[positions]
    return replace(selection, positions=positions, propensities=propensities)
