"""From the database to the arrays that strategies choose from, and back to pair keys.

Only this module and its neighbours turn a position into a pair.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.candidates.catalog import response_table
from annotator.errors import RoundError
from annotator.signals.embeddings import response_vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlite_utils import Database

    from strategies.pool import Pool


@dataclass(frozen=True)
class CandidatePool:
    """A Pool and the ids behind its positions."""

    pool: Pool
    response_ids: NDArray[np.int64]  # (n_responses,)
    encoder_id: int

    def snapshot(self) -> dict[str, object]:
        """Counts and a fingerprint: two rounds with the same one chose from the same pool."""
        pool = self.pool
        digest = hashlib.sha256()
        for part in (self.response_ids, pool.prompt_of_response, pool.pair_eligible):
            digest.update(part.tobytes())
        return {
            "n_prompts": pool.n_prompts,
            "n_responses": pool.n_responses,
            "n_pairs": pool.n_pairs,
            "n_eligible": pool.n_eligible,
            "fingerprint": digest.hexdigest()[:32],
        }


def build_pool(db: Database, database_path: Path, encoder_id: int) -> CandidatePool:
    """Every pair of the database; those that were picked in an earlier round not eligible."""
    import numpy as np

    from strategies.pool import Pool

    table = response_table(db)
    if not len(table.response_ids):
        raise RoundError(
            "the database holds no candidates",
            expected="prompts with two or more responses",
            todo="run `annotator import FILE`",
        )
    vectors = response_vectors(db, database_path, encoder_id, table.response_ids)
    _, prompt_of_response = np.unique(table.prompt_ids, return_inverse=True)
    pool = Pool.of_responses(vectors, prompt_of_response)
    pool = pool.without(_picked_positions(db, table.response_ids, pool))
    return CandidatePool(pool, table.response_ids, encoder_id)


def _picked_positions(
    db: Database, response_ids: NDArray[np.int64], pool: Pool
) -> NDArray[np.int64]:
    """Positions of the pairs that were picked before."""
    import numpy as np

    query = "SELECT a_id, b_id FROM picks WHERE arm IN ('acquired', 'control')"
    picked = np.array(db.execute(query).fetchall(), dtype=np.int64).reshape(-1, 2)
    if not len(picked):
        return np.empty(0, dtype=np.int64)
    order = np.argsort(response_ids)
    a, b = order[np.searchsorted(response_ids, picked, sorter=order)].T
    n = np.int64(pool.n_responses)
    # The pool's pairs are sorted by (a, b), so one code per pair can be looked up by bisection.
    positions: NDArray[np.int64] = np.searchsorted(pool.pair_a * n + pool.pair_b, a * n + b)
    return positions
