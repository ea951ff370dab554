"""What one more vote is expected to bring, on a pair that has votes and on one that has none.

Both in the same unit: by how much the vote lowers the probability that the pair is believed to be
the wrong way round.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from annotator.labels.consensus_store import pair_beliefs
from annotator.rounds.believe import ensure_consensus, new_pair_gains
from annotator.rounds.further import places_given_up

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.rounds.picks import ExtraVote
    from annotator.rounds.pool import CandidatePool
    from strategies.within_prompt import Floats, Positions


class WorthOfVotes:
    """Gains of votes, worked out when they are asked for: both take a fit of the whole model."""

    def __init__(self, db: Database, database_path: Path, candidates: CandidatePool) -> None:
        self._db, self._database_path, self._candidates = db, database_path, candidates

    def of_further_votes(self, a_ids: Positions, b_ids: Positions) -> Floats:
        """Of one more vote on each of these pairs of responses, (n,); NaN where nobody has voted.

        Out of the newest consensus, which is brought up to date. Raises PreferenceError.
        """
        import numpy as np

        ensure_consensus(self._db, self._database_path, self._candidates.encoder_id)
        known = pair_beliefs(self._db)
        pairs = zip(known.a_ids.tolist(), known.b_ids.tolist(), strict=True)
        gain = dict(zip(pairs, known.gain.tolist(), strict=True))
        asked = zip(a_ids.tolist(), b_ids.tolist(), strict=True)
        return np.array([gain.get(pair, np.nan) for pair in asked], dtype=np.float64)

    def of_first_votes(self, chosen: Positions) -> Floats:
        """Of a first vote on each of these pairs, positions in the pool, (n,)."""
        pool, ids = self._candidates.pool, self._candidates.response_ids
        a_ids, b_ids = ids[pool.pair_a[chosen]], ids[pool.pair_b[chosen]]
        encoder_id = self._candidates.encoder_id
        return new_pair_gains(self._db, self._database_path, encoder_id, a_ids, b_ids)

    def places_for(self, ranked: list[ExtraVote], chosen: Positions) -> int:
        """How many of the chosen pairs, from the last, give their place to these further votes."""
        import numpy as np

        last = chosen[::-1][: len(ranked)]
        if not len(last):
            return 0
        gains = np.array([extra.gain for extra in ranked], dtype=np.float64)
        return places_given_up(gains, self.of_first_votes(last))
