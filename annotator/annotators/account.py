"""What can be said of the people who label, as one JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from annotator.annotators.evidence import Document, Evidence, Person
from annotator.labels.agreement import Agreement, PersonAgreement, agreement, agreement_of_each
from annotator.labels.answers_known import (
    SHOWN_FROM,
    Alarm,
    Pace,
    fast,
    gold_accuracy,
    low_shares,
    one_sided,
    pace,
    self_consistency,
)
from annotator.labels.intervals import NOTHING, Estimate, Shares
from annotator.labels.position import SideHabits, side_habits
from annotator.labels.style import STYLE, longer_wins, style_effects, style_of
from strategies.datamap import REGIONS
from strategies.within_prompt import Bools, Floats, Positions

DIGITS = 4
CONTROL_PAIRS_NEEDED = 30
MOST_STYLED = 4_000  # pairs whose texts are read; of more a sample


def account(evidence: Evidence, minimum: float, seed: int) -> Document:
    """Everything measured. The same evidence, minimum and seed give the same document."""
    rng = np.random.default_rng(seed)
    counted = _counted_pairs(evidence)
    compared = evidence.early & counted[evidence.votes.pair]
    votes = evidence.votes.take(compared)
    habits = _habits(evidence)
    gold, repeats = _gold(evidence), _repeats(evidence)
    speed = pace(evidence.seconds, evidence.votes.annotator, len(evidence.people))
    skill = _skills(evidence)
    alarms = _alarms(evidence, minimum, habits, gold, repeats, speed, skill)
    document: Document = {
        "minimum": minimum,
        "shown_from": SHOWN_FROM,
        "seed": seed,
        "pairs_from": _pairs_from(evidence),
        "agreement": _agreement(agreement(votes, rng)),
        "people": _people(
            evidence, agreement_of_each(votes, rng), habits, gold, repeats, speed, alarms
        ),
        "tested": int(np.count_nonzero(~np.isnan(habits.p))),
        "by_region": _regions(evidence, votes.pair, compared, rng),
        "regions_from": evidence.region_from,
        **_drawn_to(evidence, compared, rng),
        "skills_from": evidence.skills_from,
    }
    document["votes"] = sum(person.votes for person in evidence.people)
    document["votes_compared"] = int(np.count_nonzero(compared))
    document["votes_after_the_first"] = int(
        np.count_nonzero(~evidence.early & counted[evidence.votes.pair])
    )
    document["notes"] = _notes(document)
    return document


def _counted_pairs(evidence: Evidence) -> Bools:
    """Pairs (n_pairs,) that agreement is measured on: by lot, if enough of those have two votes."""
    if _control_pairs(evidence) >= CONTROL_PAIRS_NEEDED:
        return evidence.control
    return evidence.asked


def _control_pairs(evidence: Evidence) -> int:
    pair = evidence.votes.pair[evidence.early]
    n_votes = np.bincount(pair, minlength=evidence.votes.n_pairs)
    return int(np.count_nonzero(evidence.control & (n_votes > 1)))


def _pairs_from(evidence: Evidence) -> Document:
    n_control = _control_pairs(evidence)
    return {
        "from": "control" if n_control >= CONTROL_PAIRS_NEEDED else "all",
        "control_pairs": n_control,
        "control_pairs_needed": CONTROL_PAIRS_NEEDED,
    }


def _enough_votes(evidence: Evidence) -> Bools:
    """Who has SHOWN_FROM votes or more, (n_annotators,)."""
    given = np.array([person.votes for person in evidence.people], dtype=np.int64)
    enough: Bools = given >= SHOWN_FROM
    return enough


def _habits(evidence: Evidence) -> SideHabits:
    """Of the votes that were asked for before anybody had answered.

    Further ones are not free of the side: beside somebody who always presses left, pairs are in
    doubt where the better response stands on the right, and careful people then press right.
    """
    votes, early = evidence.votes.take(evidence.early), evidence.early
    return side_habits(
        votes.pair,
        votes.grade,
        votes.annotator,
        evidence.left_is_a[early],
        _enough_votes(evidence),
    )


def _gold(evidence: Evidence) -> Shares:
    found = evidence.gold
    return gold_accuracy(found.grade, found.gold, found.annotator, len(evidence.people))


def _repeats(evidence: Evidence) -> Shares:
    found = evidence.repeats
    return self_consistency(found.first, found.later, found.annotator, len(evidence.people))


def _skills(evidence: Evidence) -> list[Estimate]:
    """Each person's skill; nothing before SHOWN_FROM votes, when it is mostly what was assumed."""
    return [_skill(person) for person in evidence.people]


def _skill(person: Person) -> Estimate:
    found = person.skill
    if found is None or found.n_votes < SHOWN_FROM:
        return NOTHING
    return Estimate(found.skill, found.skill_low, found.skill_high)


def _alarms(
    evidence: Evidence,
    minimum: float,
    habits: SideHabits,
    gold: Shares,
    repeats: Shares,
    speed: Pace,
    skill: list[Estimate],
) -> list[list[Alarm]]:
    """The alarms of each person; none of somebody with fewer than SHOWN_FROM votes."""
    found = [
        *low_shares("gold", gold.high, minimum),
        *low_shares("repeats", repeats.high, minimum),
        *low_shares("skill", np.array([one.high for one in skill]), minimum),
        *one_sided(habits.left, habits.p_holm),
        *fast(speed),
    ]
    enough = _enough_votes(evidence)
    of_each: list[list[Alarm]] = [[] for _ in evidence.people]
    for alarm in found:
        if enough[alarm.annotator]:
            of_each[alarm.annotator].append(alarm)
    return of_each


def _people(
    evidence: Evidence,
    agree: list[PersonAgreement],
    habits: SideHabits,
    gold: Shares,
    repeats: Shares,
    speed: Pace,
    alarms: list[list[Alarm]],
) -> list[Document]:
    """Everybody, those with most votes first."""
    rows = [
        {
            "id": person.id,
            "name": person.name,
            "server": person.server,
            "votes": person.votes,
            "skips": person.skips,
            "seconds": _estimate(speed.median[i]),
            "others_seconds": _rounded(speed.others[i]),
            "agreement": {
                "votes": agree[i].votes,
                "share": _estimate(agree[i].share),
                "nominal_alpha": _estimate(agree[i].nominal),
            },
            "skill": _estimate(_skill(person)),
            "left_bias": _left_bias(person),
            "left": _share(habits.left, i),
            "left_p": _p(habits.p[i]),
            "left_p_holm": _p(habits.p_holm[i]),
            "others_left": _rounded(habits.others_left[i]),
            "shown_a_left": _share(habits.shown, i),
            "gold": _share(gold, i),
            "repeats": _share(repeats, i),
            "alarms": [_alarm(alarm) for alarm in alarms[i]],
        }
        for i, person in enumerate(evidence.people)
    ]
    return sorted(rows, key=lambda row: -int(str(row["votes"])))


def _left_bias(person: Person) -> Document:
    found = person.skill
    if found is None or found.n_votes < SHOWN_FROM:
        return _estimate(NOTHING)
    return _estimate(Estimate(found.left_bias, found.left_low, found.left_high))


def _regions(
    evidence: Evidence, pair: Positions, compared: Bools, rng: np.random.Generator
) -> dict[str, Document]:
    if evidence.region is None:
        return {}
    votes = evidence.votes.take(compared)
    region = evidence.region[pair]
    found = {name: agreement(votes.take(region == code), rng) for code, name in enumerate(REGIONS)}
    return {name: _agreement(one) for name, one in found.items() if one.pairs}


def _drawn_to(evidence: Evidence, compared: Bools, rng: np.random.Generator) -> Document:
    """What length and style do to the votes that are compared, on a sample of their pairs."""
    votes = evidence.votes
    used = np.unique(votes.pair[compared])
    some = np.sort(rng.permutation(used)[:MOST_STYLED])
    rows = np.flatnonzero(compared & np.isin(votes.pair, some))
    difference = _style_difference(evidence, some)[np.searchsorted(some, votes.pair[rows])]
    grade, prompt = votes.grade[rows], votes.prompt_of_pair[votes.pair[rows]]
    won, n = longer_wins(grade, difference[:, STYLE.index("length")], prompt, rng)
    effects = style_effects(grade, difference, evidence.left_is_a[rows], prompt)
    return {
        "longer": {"wins": _estimate(won), "votes": n, "pairs": len(some), "of_pairs": len(used)},
        "style": [
            {"name": one.name, "odds_ratio": _estimate(one.odds_ratio), "sd": _rounded(one.sd)}
            for one in effects
        ],
    }


def _style_difference(evidence: Evidence, pairs: Positions) -> Floats:
    """Style of a less that of b, (n_pairs, 5)."""
    a, b = evidence.texts(pairs)
    return style_of(a) - style_of(b)


def _notes(document: Document) -> list[str]:
    notes = []
    longer = document["longer"]
    if longer["pairs"] < longer["of_pairs"]:
        notes.append(
            f"Length and style are of a sample of {longer['pairs']:,} of {longer['of_pairs']:,} "
            "pairs."
        )
    if document["skills_from"] is not None and document["skills_from"]["behind"]:
        notes.append("Votes have come since skills were last computed; they are not in them.")
    return notes


def _agreement(found: Agreement) -> Document:
    return {
        "share": _estimate(found.share),
        "nominal_alpha": _estimate(found.nominal),
        "ordinal_alpha": _estimate(found.ordinal),
        "pairs": found.pairs,
        "votes": found.votes,
        "people": found.people,
        "prompts": found.prompts,
        "resampled": found.resampled,
        "undefined": found.undefined,
    }


def _share(found: Shares, i: int) -> Document:
    value = Estimate(float(found.share[i]), float(found.low[i]), float(found.high[i]))
    return {"hits": int(found.hits[i]), "n": int(found.n[i]), **_estimate(value)}


def _alarm(alarm: Alarm) -> Document:
    document: dict[str, Any] = asdict(alarm) | {
        "bound": _rounded(alarm.bound),
        "line": _rounded(alarm.line),
    }
    del document["annotator"]
    return document


def _estimate(found: Estimate) -> Document:
    return {key: _rounded(value) for key, value in asdict(found).items()}


def _rounded(value: float) -> float | None:
    return round(float(value), DIGITS) if np.isfinite(value) else None


def _p(value: float) -> float | None:
    """Small ones keep their digits."""
    return float(f"{value:.3g}") if np.isfinite(value) else None
