"""Further votes: pairs of earlier rounds that one more person is asked about.

Label Studio's Community edition asks the same number of people about every task of a project. A
task's own overlap can be raised, though, and the server then offers it to somebody who has not
answered it: the same pick, the same task, one vote more, and nobody is asked twice. So a round can
spend its places on new pairs or on further votes, whichever is expected to be worth more.

Only acquired picks get further votes. Control picks get the votes that their round asked for and no
more, so that what people agree on there is not a matter of how often they were asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from annotator.labels.votes import counted_votes
from annotator.rounds.checks import RECENT_VOTES
from annotator.rounds.picks import ExtraVote

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlite_utils import Database

    from annotator.labels.overlap import Overlap, Standing
    from annotator.labels.votes import CountedVotes
    from strategies.within_prompt import Bools, Floats, Positions

    Ids = NDArray[np.int64]

# Places of a task that answers took which do not count, before its pair is given up.
SPOILT_PLACES = 3
LEAST = "least"  # the reason for votes that a pair lacks, whatever the policy

# Expected gain of one more vote on each of the pairs (a_ids, b_ids): (n,), NaN where not known.
GainOf = Callable[["Ids", "Ids"], "Floats"]


@dataclass(frozen=True)
class FurtherVotes:
    """What may be asked about pairs of earlier rounds.

    - `first`: before any new pair is, in this order.
    - `by_gain`: where the gain beats that of a new pair, highest gain first.
    - `n_seen_by_all`: pairs that want a vote and that everybody who votes has answered or skipped.
    - `n_given_up`: pairs that want a vote after too many answers that do not count.
    """

    first: list[ExtraVote] = field(default_factory=list)
    by_gain: list[ExtraVote] = field(default_factory=list)
    n_seen_by_all: int = 0
    n_given_up: int = 0

    def __len__(self) -> int:
        return len(self.first) + len(self.by_gain)

    @property
    def notes(self) -> list[str]:
        """Which pairs get none although they want one, in words."""
        reasons = {
            "want a further vote that nobody is left to give: everybody who votes has answered or "
            "skipped them": self.n_seen_by_all,
            "are asked about no more: too many answers that do not count": self.n_given_up,
        }
        return [f"{n:,} pairs {reason}" for reason, n in reasons.items() if n]


def further_votes(db: Database, overlap: Overlap, gain_of: GainOf) -> FurtherVotes:
    """The further votes that the policy wants; `gain_of` is asked where it goes by the gain.

    A plain number, least = most, asks that many people about the pairs of its own round and leaves
    earlier ones alone; the policy `fixed` brings those up to the number as well.
    """
    from annotator.labels.overlap import EXPECTED_GAIN, FIXED

    if overlap.range.is_fixed and overlap.policy != FIXED:
        return FurtherVotes()
    pairs = _earlier_pairs(db)
    if not len(pairs):
        return FurtherVotes()
    gain = gain_of(pairs.a_ids, pairs.b_ids) if overlap.policy == EXPECTED_GAIN else None
    return choose_further(pairs, overlap, gain, _n_voters(db))


def places_given_up(further: Floats, new: Floats) -> int:
    """How many new pairs, from the last, give their place to a further vote.

    `further` (n,) the gains of further votes, highest first; `new` (m,) those of a first vote on
    the new pairs, the one that was chosen last first. It goes on while the further vote's is more.
    """
    import numpy as np

    n = min(len(further), len(new))
    stays = ~(further[:n] > new[:n])
    return int(np.argmax(stays)) if stays.any() else n


@dataclass(frozen=True, eq=False)
class EarlierPairs:
    """Acquired picks whose tasks are on a server, in the order in which they were picked, (n,).

    - `n_votes` that count, each by another person, on the pair; `lead`: those for a less those
      for b.
    - `n_asked`: people whom the server was told to ask about the task; `n_answered`: those who
      did, countable or not, as the server counts them; `n_recent`: people who vote these days and
      have seen it, a skip included.
    """

    pick_ids: Ids
    a_ids: Ids
    b_ids: Ids
    n_votes: Positions
    lead: Positions
    n_asked: Positions
    n_answered: Positions
    n_recent: Positions

    def __len__(self) -> int:
        return len(self.pick_ids)

    def standing(self) -> Standing:
        """The same as policies see it."""
        import numpy as np

        from annotator.labels.overlap import Standing

        return Standing(self.n_votes, np.maximum(self.n_asked - self.n_answered, 0), self.lead)


def choose_further(
    pairs: EarlierPairs, overlap: Overlap, gain: Floats | None, n_voters: int
) -> FurtherVotes:
    """The further votes out of what stands of each pair.

    `gain` (n,) of a further vote, NaN where not known, for the policy that goes by it. `n_voters`
    people vote these days; a pair that so many of them have seen waits for nobody.
    """
    import numpy as np

    from annotator.labels.overlap import EXPECTED_GAIN, by_gain, one_more

    standing = pairs.standing()
    wanted = one_more(overlap, standing, None if gain is None else np.nan_to_num(gain))
    if overlap.policy == EXPECTED_GAIN:
        # The gain looks several votes ahead; the last one alone turns no lead of two.
        last = pairs.n_asked >= overlap.range.most - 1
        wanted &= ~(last & (np.abs(pairs.lead) >= 2) & (pairs.n_asked >= overlap.range.least))
    lacking: Positions = overlap.range.least - standing.n_asked
    target = np.maximum(pairs.n_asked, pairs.n_answered) + np.maximum(lacking, 1)
    seen_by_all = wanted & (pairs.n_recent >= n_voters)
    given_up = wanted & ~seen_by_all & (target > overlap.range.most + SPOILT_PLACES)
    open_: Bools = wanted & ~seen_by_all & ~given_up

    def extra(positions: Positions, reason: str) -> list[ExtraVote]:
        return [_extra(pairs, int(at), int(target[at]), gain, reason) for at in positions]

    below = extra(np.flatnonzero(open_ & (lacking > 0)), LEAST)
    above = open_ & (lacking <= 0)
    first, ranked = below, []
    if overlap.policy == EXPECTED_GAIN and gain is not None:
        ranked = extra(by_gain(above, np.nan_to_num(gain), len(pairs)), overlap.policy)
    else:
        first = below + extra(np.flatnonzero(above), overlap.policy)
    return FurtherVotes(first, ranked, int(seen_by_all.sum()), int(given_up.sum()))


def asked_again(db: Database, pick_ids: list[int], reason: str) -> list[ExtraVote]:
    """One more vote on each of these picks, in their order, whatever any policy says.

    Left out: picks that are not acquired or whose task is not on a server, those on which a vote
    is still to come, and those that everybody who votes these days has seen.
    """
    pairs, n_voters = _earlier_pairs(db), _n_voters(db)
    place = {pick: at for at, pick in enumerate(pairs.pick_ids.tolist())}
    wanted = [place[pick] for pick in dict.fromkeys(pick_ids) if pick in place]
    settled = (pairs.n_answered >= pairs.n_asked) & (pairs.n_recent < n_voters)
    return [
        _extra(pairs, at, int(pairs.n_answered[at]) + 1, None, reason)
        for at in wanted
        if settled[at]
    ]


def _extra(
    pairs: EarlierPairs, at: int, target: int, gain: Floats | None, reason: str
) -> ExtraVote:
    known = None if gain is None or gain[at] != gain[at] else float(gain[at])
    n_open = int(max(pairs.n_asked[at], pairs.n_answered[at]))
    return ExtraVote(
        pick_id=int(pairs.pick_ids[at]),
        a_id=int(pairs.a_ids[at]),
        b_id=int(pairs.b_ids[at]),
        n_votes=int(pairs.n_votes[at]),
        n_more=target - n_open,
        overlap=target,
        gain=known,
        reason=reason,
    )


# A task that is not swept is still on its way, doubled, or gone.
_EARLIER = """SELECT p.id, p.a_id, p.b_id, coalesce(t.overlap, r.overlap)
    FROM picks p JOIN tasks t ON t.pick_id = p.id JOIN rounds r ON r.id = p.round_id
    WHERE p.arm = 'acquired' AND t.state = 'swept' ORDER BY p.id"""

# Who votes these days: whoever gave one of the last votes.
_RECENT = f"""SELECT annotator_id FROM (SELECT annotator_id FROM current_votes
    WHERE status = 'vote' ORDER BY id DESC LIMIT {RECENT_VOTES})"""  # noqa: S608

# Of each task how many people the server has an answer of, and how many of those who
# vote these days have seen it. The server counts
# answers that are rejected here, and a machine's that were submitted; a skip it does not.
_PEOPLE = f"""WITH newest AS (
        SELECT pick_id, coalesce(annotator_id, -1) AS who, status, row_number() OVER (
            PARTITION BY project_id, annotation_id ORDER BY id DESC) AS age
        FROM votes WHERE pick_id IS NOT NULL)
    SELECT pick_id, count(DISTINCT iif(status = 'skip', NULL, who)) AS answered,
        count(DISTINCT iif(who IN ({_RECENT}), who, NULL)) AS recent
    FROM newest WHERE age = 1 AND status <> 'deleted' GROUP BY pick_id"""  # noqa: S608


def _earlier_pairs(db: Database) -> EarlierPairs:
    import numpy as np

    rows = np.array(db.execute(_EARLIER).fetchall(), dtype=np.int64).reshape(-1, 4)
    pick_ids, a_ids, b_ids, n_asked = rows.T
    n_votes, lead = _votes_on(counted_votes(db), a_ids, b_ids)
    people = {pick: (answered, recent) for pick, answered, recent in db.execute(_PEOPLE)}
    seen = np.array([people.get(pick, (0, 0)) for pick in pick_ids.tolist()], dtype=np.int64)
    n_answered, n_recent = seen.reshape(-1, 2).T
    return EarlierPairs(pick_ids, a_ids, b_ids, n_votes, lead, n_asked, n_answered, n_recent)


def _votes_on(votes: CountedVotes, a_ids: Ids, b_ids: Ids) -> tuple[Positions, Positions]:
    """How many votes each pair has, and by how many a leads."""
    import numpy as np

    pairs = np.concatenate((np.stack((a_ids, b_ids)), np.stack((votes.a_ids, votes.b_ids))), axis=1)
    _, code = np.unique(pairs, axis=1, return_inverse=True)
    of_pair, of_vote = np.split(code.ravel(), [len(a_ids)])
    n_codes = int(code.max(initial=-1)) + 1
    n_votes = np.bincount(of_vote, minlength=n_codes)
    lead = np.bincount(of_vote, weights=np.sign(votes.grade), minlength=n_codes).astype(np.int64)
    return n_votes[of_pair], lead[of_pair]


def further_progress(db: Database) -> dict[str, int]:
    """How many pairs further votes were asked on, and on how many of them one is still to come."""
    query = f"""SELECT count(*), coalesce(sum(coalesce(w.answered, 0) < t.overlap), 0)
        FROM tasks t LEFT JOIN ({_PEOPLE}) w ON w.pick_id = t.pick_id
        WHERE t.overlap IS NOT NULL AND t.state <> 'gone'"""  # noqa: S608
    pairs, open_ = db.execute(query).fetchone()
    return {"pairs": pairs, "open": open_}


def _n_voters(db: Database) -> int:
    query = f"SELECT count(DISTINCT annotator_id) FROM ({_RECENT})"  # noqa: S608
    return int(db.execute(query).fetchone()[0])
