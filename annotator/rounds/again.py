"""`send_again`: a round that puts pairs somebody doubts before one more annotator each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from annotator.rounds.further import asked_again
from annotator.rounds.picks import ExtraVote, Round, record_extra_votes, record_round
from annotator.store import hold_lock, writing
from annotator.studio.outbox import ask_for_votes

if TYPE_CHECKING:
    from sqlite_utils import Database


def send_again(
    db: Database, database_path: Path, pick_ids: list[int], *, reason: str
) -> list[ExtraVote]:
    """The votes that the round asks for, recorded; the next push tells the server.

    One more on each of these acquired picks, in their order; left out are those on which a vote is
    still to come, which may settle them, those that everybody who votes has seen, and those whose
    task is not on a server. No round is
    recorded where nothing is left. One process at a time, as when a batch is chosen.
    """
    lock = database_path.with_name(f"{database_path.name}.choose.lock")
    with hold_lock(lock, "choosing a batch"):
        extra = asked_again(db, pick_ids, reason)
        if not extra:
            return []
        head = Round(
            strategy=reason,
            seed=0,
            n_acquired=0,
            n_control=0,
            overlap=1,
            encoder_id=None,
            pool={},
        )
        with writing(db):
            round_id, _ = record_round(db, head, [])
            record_extra_votes(db, round_id, extra)
            ask_for_votes(db, {vote.pick_id: vote.overlap for vote in extra})
    return extra
