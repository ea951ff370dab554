"""From the database to the arrays that strategies choose from, and back to pair keys.

Only this module and its neighbours turn a position into a pair.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.errors import RoundError
from annotator.rounds.duplicates import NEAR_DUPLICATES, redundant_pairs
from annotator.rounds.picks import TAKEN_PAIRS
from annotator.signals.embeddings import vectors_in
from annotator.signals.vector_rows import embedded_responses
from annotator.store.columns import integer_columns

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
    prompt_ids: NDArray[np.int64]  # (n_prompts,)
    encoder_id: int
    n_redundant: int  # pairs left out because nobody need be asked
    routed: NDArray[np.bool_]  # (n_pairs,) that a certificate leaves to a machine

    @property
    def n_left_to_strategies(self) -> int:
        """Eligible pairs that need a person; the control arm is drawn from the others as well."""
        return int((self.pool.pair_eligible & ~self.routed).sum())

    def snapshot(self) -> dict[str, object]:
        """Counts and a fingerprint: two rounds with the same one chose from the same pool."""
        pool = self.pool
        digest = hashlib.sha256()
        parts = [self.response_ids, pool.prompt_of_response, pool.pair_eligible]
        if self.n_redundant:  # else all pairs of all responses are there
            parts += [pool.pair_a, pool.pair_b]
        for part in parts:
            digest.update(part.tobytes())
        return {
            **({"n_routed": int(self.routed.sum())} if self.routed.any() else {}),
            "n_prompts": pool.n_prompts,
            "n_responses": pool.n_responses,
            "n_pairs": pool.n_pairs,
            "n_eligible": pool.n_eligible,
            "n_redundant": self.n_redundant,
            "fingerprint": digest.hexdigest()[:32],
        }


def build_pool(
    db: Database,
    database_path: Path,
    encoder_id: int,
    *,
    near_duplicates: float = NEAR_DUPLICATES,
) -> CandidatePool:
    """Every pair worth asking; those picked in an earlier round, and gold, are not eligible.

    Those that a certificate leaves to a machine are: the control arm is drawn from them too.

    Left out is what `duplicates.redundant_pairs` finds from the cosine `near_duplicates` on; at 1
    nothing is.
    """
    import numpy as np

    from strategies.pool import Pool
    from strategies.within_prompt import all_pairs

    table = embedded_responses(db, database_path, encoder_id)
    if not len(table.response_ids):
        raise RoundError(
            "the database holds no candidates",
            expected="prompts with two or more responses",
            todo="run `annotator import FILE`",
        )
    vectors = vectors_in(db, database_path, encoder_id, table.rows)
    first = np.diff(table.prompt_ids, prepend=-1) != 0  # the prompts are in ascending order
    prompt_ids, prompt_of_response = table.prompt_ids[first], np.cumsum(first) - 1
    pair_a, pair_b = all_pairs(prompt_of_response)
    picked, routed = (np.zeros(len(pair_a), dtype=np.bool_) for _ in range(2))
    picked[_positions(db, TAKEN_PAIRS, table.response_ids, pair_a, pair_b)] = True
    routed[_positions(db, ROUTED_PAIRS, table.response_ids, pair_a, pair_b)] = True
    redundant = redundant_pairs(
        db,
        table.response_ids,
        table.rows,
        vectors,
        prompt_of_response,
        pair_a,
        pair_b,
        picked,
        near_duplicates,
    )
    pool = Pool(
        response_vectors=vectors,
        prompt_of_response=prompt_of_response,
        pair_a=pair_a[~redundant],
        pair_b=pair_b[~redundant],
        pair_eligible=~picked[~redundant],
    )
    n_redundant = int(np.count_nonzero(redundant))
    return CandidatePool(
        pool,
        table.response_ids,
        prompt_ids,
        encoder_id,
        n_redundant,
        routed[~redundant] & ~picked[~redundant],
    )


# SQL: a_id and b_id of each pair that a certificate in force leaves to a machine.
ROUTED_PAIRS = """SELECT DISTINCT r.a_id, r.b_id FROM routed r
    JOIN certificates c ON c.id = r.certificate_id WHERE c.void_at IS NULL"""


def _positions(
    db: Database,
    query: str,
    response_ids: NDArray[np.int64],
    pair_a: NDArray[np.int64],
    pair_b: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Positions, among all pairs, of those whose a_id and b_id the query gives."""
    import numpy as np

    found = integer_columns(db, query, 2).T
    if not len(found):
        return np.empty(0, dtype=np.int64)
    order = np.argsort(response_ids, kind="stable")  # of sorted ids, which is the rule, at once
    a, b = order[np.searchsorted(response_ids, found, sorter=order)].T
    n = np.int64(len(response_ids))
    # All pairs are sorted by (a, b), so one code per pair can be looked up by bisection.
    positions: NDArray[np.int64] = np.searchsorted(pair_a * n + pair_b, a * n + b)
    return positions
