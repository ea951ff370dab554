"""The saving of a project: its votes in the order they were cast, and what they say of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.budget import snapshots
from annotator.labels.consensus_store import newest_build, newest_vote, skills
from annotator.labels.votes import (
    ARMS,
    CountedVotes,
    counted_votes,
    first_seen,
    repeated_votes,
)
from annotator.progress import progress_bar
from annotator.rounds.believe import features_around
from annotator.signals.scores import told_method

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlite_utils import Database

    from annotator.budget.savings import CastVotes, Interval, Saving
    from strategies.within_prompt import Floats

Document = dict[str, Any]

VERSION = 1  # what a kept saving was computed by; raise it when results change
LOOKS = "saving-looks"  # what came of each look; it stands, so it is not made of later votes
# Control votes, as in annotator.budget.savings, which is imported only where it is needed.
FEWEST, FIRST_LOOK = 30, 60
USEFUL = 0.10  # saving below which choosing is not worth the trouble
PLENTY = 120  # control votes, from which on it tells that nothing was learned by them
GUESS = 0.5  # standard errors, up to which few control votes do not tell how far it is
FAR_AWAY = 20  # times as many votes
DIGITS = 4
QUALITY = "votes foretold, log score above a coin's"


def project_saving(db: Database, database_path: Path) -> Document:
    """What can be said of the project's saving, as one document; kept until something is new.

    Only prompts whose responses have vectors by the encoder of the newest round count. Raises
    PreferenceError.
    """
    made_of = _made_of(db)

    def measure() -> Document:
        with progress_bar(None, "saving", "fits") as advance:
            document = _measure(db, database_path, made_of["encoder"])
            advance(1)
        return document

    return snapshots.kept(db, "saving", made_of, measure)


def _made_of(db: Database) -> Document:
    """What the saving depends on: votes, encoder and vectors, scores, beliefs of people."""
    encoder_id, build = _encoder(db), newest_build(db)
    vectors = db.execute(
        "SELECT max(row) FROM embeddings WHERE encoder_id = ?", [encoder_id]
    ).fetchone()[0]
    return {
        "version": VERSION,
        "last_vote": newest_vote(db),
        "encoder": encoder_id,
        "vectors": vectors,
        "told": told_method(db),
        "people": None if build is None else build.id,
    }


def _encoder(db: Database) -> int | None:
    row = db.execute(
        "SELECT encoder_id FROM rounds WHERE encoder_id IS NOT NULL ORDER BY id DESC LIMIT 1"
    ).fetchone()
    return int(row[0]) if row else None


def _measure(db: Database, database_path: Path, encoder_id: int | None) -> Document:
    import numpy as np

    from annotator.budget.savings import needed_votes, saving

    votes = counted_votes(db)
    n_control = int(votes.control.sum())
    if n_control < FEWEST:
        return _too_few(votes, n_control)
    if encoder_id is None:
        return _unmeasured(n_control, "no response has a vector; run `annotator embed`")
    votes, number, n_cast = in_order(db, votes)
    needed = needed_votes(votes.control, number) & (votes.arm <= ARMS.index("control"))
    votes, number = votes.take(needed), number[needed]
    ends = np.concatenate((votes.a_ids, votes.b_ids))
    features, response_ids, _ = features_around(db, database_path, encoder_id, ends)
    if features is None:
        return _unmeasured(n_control, "responses lack vectors, or too many prompts have votes")
    cast = _cast(db, votes, number, response_ids)
    if cast.n_control < FEWEST:
        return _unmeasured(n_control, "prompts of the control arm lack vectors")
    looked = _looked(db)
    found = saving(features, cast, np.random.default_rng(0), looked=looked)
    if dict(found.looks) != looked:
        _keep_looks(db, dict(found.looks))
    return document_of(found, n_control, n_cast)


def _looked(db: Database) -> dict[int, bool]:
    """What came of each look that was taken, by its control votes."""
    kept = snapshots.get(db, LOOKS, {"version": VERSION}) or {}
    return {int(n): passed for n, passed in kept.items()}


def _keep_looks(db: Database, looks: dict[int, bool]) -> None:
    snapshots.put(db, LOOKS, {"version": VERSION}, {str(n): passed for n, passed in looks.items()})


def in_order(db: Database, votes: CountedVotes) -> tuple[CountedVotes, NDArray[np.int64], int]:
    """The votes in the order in which they were cast, the number of each, and of how many.

    Votes on gold and what somebody said when asked again are charged: they are among those counted,
    whether they are among `votes` or not.
    """
    import numpy as np

    seen = first_seen(db, votes)
    charged = np.sort(np.concatenate((seen, first_seen(db, repeated_votes(db)[1]))))
    order = np.argsort(seen, kind="stable")
    return votes.take(order), np.searchsorted(charged, seen[order]) + 1, len(charged)


def _cast(
    db: Database,
    votes: CountedVotes,
    number: NDArray[np.int64],
    response_ids: NDArray[np.int64],
) -> CastVotes:
    """The votes on responses that have features, by the positions of these."""
    import numpy as np

    from annotator.budget.savings import CastVotes
    from annotator.preference.laplace import places_of
    from annotator.preference.votes import Votes

    a, b = (places_of(ids, response_ids) for ids in (votes.a_ids, votes.b_ids))
    known = (a >= 0) & (b >= 0)
    lapse = _lapses(db, votes.annotator_ids[known])
    cast = Votes(a[known], b[known], np.clip(votes.grade[known], -2, 2), lapse)
    return CastVotes(cast, votes.control[known], number[known])


def _lapses(db: Database, annotator_ids: NDArray[np.int64]) -> Floats | None:
    """How often each annotator does not look, by the newest consensus; None without one."""
    import numpy as np

    known = skills(db)
    if not known:
        return None
    typical = float(np.mean([one.skill for one in known.values()]))
    of = {who: 1.0 - one.skill for who, one in known.items()}
    lapse: Floats = np.array([of.get(who, 1.0 - typical) for who in annotator_ids.tolist()])
    return lapse


# The document.


def _too_few(votes: CountedVotes, n_control: int) -> Document:
    if not len(votes):
        return _empty("too-few", "No saving is shown yet: nobody has voted.", 0)
    if not n_control:
        sentence = (
            "No saving can be measured: no vote is on a pair that was drawn uniformly. "
            "`next-batch` draws them where its --control share is above 0."
        )
        return _empty("no-control", sentence, 0)
    more = round((FEWEST - n_control) * len(votes) / n_control)
    sentence = (
        f"No saving is shown yet: {n_control} of at least {FEWEST} votes of the control arm; "
        f"about {_rounded(more):,} more votes."
    )
    return _empty("too-few", sentence, n_control) | {"more_votes": more}


def _unmeasured(n_control: int, why: str) -> Document:
    return _empty("not-shown", f"No saving is shown: {why}.", n_control)


def _empty(answer: str, sentence: str, n_control: int) -> Document:
    return {
        "answer": answer,
        "sentence": sentence,
        "control_votes": n_control,
        "needed": FEWEST,
        **dict.fromkeys(("share", "low", "high", "votes_ours", "votes_uniform")),
        **dict.fromkeys(("same_votes", "more_votes", "curve")),
        "looks": {"shown_at": [], "next": _next_look(n_control)},
        "quality_name": QUALITY,
    }


def document_of(found: Saving, n_control: int, n_votes: int) -> Document:
    """A saving as it is shown; of the project's `n_votes` `n_control` are control votes."""
    answer, more = _answer(found), _more_votes(found, n_control, n_votes)
    share = found.share
    sentence = _sentence(found, answer, _outlook(found, more, n_votes))
    return _empty(answer, sentence, n_control) | {
        # No figure without its claim: somebody's script would print it.
        "share": _number(share.value) if answer == "saving" else None,
        "low": _number(share.low),
        "high": _number(share.high),
        "votes_ours": round(found.votes.value or 0) if answer == "saving" else None,
        "votes_uniform": found.n_uniform,
        "same_votes": {**_interval(found.right), "votes": found.n_uniform},
        "more_votes": more,
        "looks": {
            "shown_at": [n for n, passed in found.looks if passed],
            "next": _next_look(n_control),
        },
        "curve": {
            "ours": [_point(n, row) for n, row in zip(found.at, found.ours, strict=True)],
            "uniform": [
                _point(0, found.ours[0]),
                *(_point(n, row) for n, row in zip(found.uniform_at, found.uniform, strict=True)),
            ],
        },
    }


def _answer(found: Saving) -> str:
    low, high = found.share.low, found.share.high
    if found.shown:
        return "saving"
    little = high is not None and high < USEFUL and not (low is not None and low > 0.0)
    if found.looks and (little or _nothing_learned(found)):
        return "not-saving"
    return "not-shown"


def _nothing_learned(found: Saving) -> bool:
    return not found.learned and found.n_uniform >= PLENTY


def _sentence(found: Saving, answer: str, outlook: str) -> str:
    share, n = found.share, f"{found.n_uniform:,}"
    if answer == "saving":
        assert share.value is not None and share.low is not None and found.votes.value is not None
        most = "more" if share.high is None else f"{share.high:.0%}"
        return (
            f"The first {found.votes.value:,.0f} votes of this project taught what {n} uniformly "
            f"chosen votes teach: {share.value:.0%} fewer (95 %: {share.low:.0%} to {most})."
        )
    if answer == "not-saving" and _nothing_learned(found):
        return (
            "This strategy is not saving here: nothing that was learned foretells votes better "
            "than a coin, so `random` is as good."
        )
    if answer == "not-saving":
        assert share.high is not None
        bound = f"at most {share.high:.0%}" if share.high > 0 else f"a loss of {-share.high:.0%}"
        bound += "" if share.high > 0 else " or more"
        return f"This strategy is not saving here ({bound}, 95 %): `random` is as good."
    return f"No saving is shown yet: {_between(found)}. {outlook}"


def _between(found: Saving) -> str:
    low, high, n = found.votes.low, found.votes.high, f"{found.n_uniform:,}"
    if low is not None and high is not None:
        took = f"took between {low:,.0f} and {high:,.0f} votes of this project"
    elif high is not None:
        took = f"took at most {high:,.0f} votes of this project"
    elif low is not None:
        took = f"took at least {low:,.0f} votes of this project"
    else:
        return f"by {n} votes of the control arm it may be anything, or a loss"
    return f"what {n} uniformly chosen votes teach {took} (95 %)"


def _outlook(found: Saving, more: int | None, n_votes: int) -> str:
    if found.evidence <= 0.0:
        return "So far it does not look as though any were saved."
    if more is None:
        return "It is too early to say how many more votes would show one."
    if more > FAR_AWAY * n_votes:
        return "If there is a saving it is so small that no project of this size will show it."
    return f"If it is as large as it seems, about {_rounded(more):,} more votes will show it."


def _more_votes(found: Saving, n_control: int, n_votes: int) -> int | None:
    """Votes until a look passes if D stays what it is and its error falls with the root."""
    from annotator.budget.savings import LOOK_QUANTILE

    few = found.n_uniform < 2 * PLENTY
    if found.shown or found.evidence <= (GUESS if few else 0.0):
        return None
    wanted = found.n_uniform * (LOOK_QUANTILE / found.evidence) ** 2
    control = max(wanted, _next_look(n_control)) - n_control
    return round(control * n_votes / n_control)


def _next_look(n_control: int) -> int:
    look = FIRST_LOOK
    while look <= n_control:
        look *= 2
    return look


def _rounded(votes: int) -> int:
    """To two digits: more would pretend."""
    digits = max(len(str(votes)) - 2, 0)
    return int(round(votes / 10**digits) * 10**digits)


def _number(value: float | None) -> float | None:
    return None if value is None else round(float(value), DIGITS)


def _interval(interval: Interval) -> Document:
    return {name: _number(getattr(interval, name)) for name in ("value", "low", "high")}


def _point(votes: int, row: Floats) -> Document:
    value, low, high = (round(float(x), DIGITS) for x in row)
    return {"votes": int(votes), "quality": value, "low": low, "high": high}
