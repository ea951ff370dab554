"""An account of the people in words: lines for a terminal, and the same rows for a page."""

from __future__ import annotations

from collections.abc import Iterator

from annotator.annotators.evidence import Document
from annotator.labels.agreement import ALWAYS_THE_SAME, NO_PAIR_TWICE, NO_VOTES, ONE_ANNOTATOR
from annotator.labels.intervals import FEWEST_CLUSTERS
from annotator.labels.style import FEWEST_CLUSTERS_FITTED, FEWEST_VOTES, LEFT

Rows = list[list[str]]

PEOPLE = (
    "annotator", "votes", "skips", "seconds", "agrees", "skill", "left", "gold", "repeats",
    "alarms",
)  # fmt: skip
OPTIONAL = ("skill", "gold", "repeats")  # columns that are there only if anybody has any


def lines(document: Document) -> list[str]:
    """The report for a terminal."""
    report: list[str] = []
    for rows in tables(document).values():
        report += [*_aligned(rows), ""]
    report += sentences(document)
    return report + (["", *document["notes"]] if document["notes"] else [])


def sentences(document: Document) -> list[str]:
    """What a reader should take away, one plain sentence each."""
    if not document["people"]:
        return ["Nobody has voted yet: label a batch, then run `annotator sync`."]
    return [
        *_alarms(document),
        *_agreement(document),
        *_whose_pairs(document),
        *_length(document),
        *_what_is_missing(document),
    ]


def tables(document: Document) -> dict[str, Rows]:
    """Rows of cells by what they tell of, the first row being the head; empty ones left out."""
    found = {
        "people": _people(document),
        "agreement": _agreements(document),
        "style": _style(document),
    }
    return {name: rows for name, rows in found.items() if len(rows) > 1}


def _people(document: Document) -> Rows:
    """One row a person; shares in per cent with their 95 % intervals."""
    names = _names(document)
    used = [name for name in PEOPLE if name not in OPTIONAL or _any(document, name)]
    rows = [[HEADS.get(name, name) for name in used]]
    for person, name in zip(document["people"], names, strict=True):
        cells = {
            "annotator": name,
            "votes": f"{person['votes']:,}",
            "skips": f"{person['skips']:,}",
            "seconds": _number(person["seconds"]["value"], ".0f"),
            "agrees": _cell(person["agreement"]["share"]),
            "skill": _skill_cell(document, person),
            "left": _cell(person["left"]),
            "gold": _cell(person["gold"]),
            "repeats": _cell(person["repeats"]),
            "alarms": ", ".join(alarm["kind"] for alarm in person["alarms"]) or "-",
        }
        rows.append([cells[name] for name in used])
    return rows


HEADS = {
    "seconds": "median s",
    "agrees": "agrees %",
    "skill": "skill %",
    "left": "left %",
    "gold": "gold %",
    "repeats": "again %",
}


def _any(document: Document, name: str) -> bool:
    if name == "skill":
        return document["skills_from"] is not None
    return any(person[name]["n"] for person in document["people"])


def _skill_cell(document: Document, person: Document) -> str:
    if person["skill"]["value"] is None and person["votes"] < document["shown_from"]:
        return f"after {document['shown_from']} votes"
    return _cell(person["skill"])


def _names(document: Document) -> list[str]:
    """Names, with the id where two people have the same."""
    names = [person["name"] for person in document["people"]]
    return [
        name if names.count(name) == 1 else f"{name} ({person['id']})"
        for name, person in zip(names, document["people"], strict=True)
    ]


def _agreements(document: Document) -> Rows:
    found = {"all": document["agreement"], **document["by_region"]}
    head = "agreement"
    if document["regions_from"] is not None:
        head += f" by region (map of {document['regions_from']})"
    rows = [[head, "pairs", "votes", "same side %", "alpha, nominal", "alpha, ordinal"]]
    if not document["agreement"]["pairs"]:
        return rows
    return rows + [
        [
            name,
            f"{one['pairs']:,}",
            f"{one['votes']:,}",
            _cell(one["share"]),
            _alpha_cell(one["nominal_alpha"]),
            _alpha_cell(one["ordinal_alpha"]),
        ]
        for name, one in found.items()
    ]


def _style(document: Document) -> Rows:
    rows = [["odds of being preferred, all else equal", "times", "95 %"]]
    return rows + [
        [
            "on the left, against the right"
            if one["name"] == LEFT
            else f"a standard deviation more {one['name']}",
            _number(one["odds_ratio"]["value"], ".2f"),
            f"{_number(one['odds_ratio']['low'], '.2f')} to "
            f"{_number(one['odds_ratio']['high'], '.2f')}",
        ]
        for one in document["style"]
    ]


def _alarms(document: Document) -> Iterator[str]:
    for person, name in zip(document["people"], _names(document), strict=True):
        for alarm in person["alarms"]:
            yield f"{name} {ALARMS[alarm['kind']](document, person, alarm)}."
    enough = [p for p in document["people"] if p["votes"] >= document["shown_from"]]
    if enough and not any(person["alarms"] for person in enough):
        yield f"No alarms: of {_people_in_words(len(enough))}, nobody is shown to be out of line."


def _of_gold(document: Document, person: Document, _: Document) -> str:
    return f"gets too many known answers wrong: right on {_of(person['gold'])}, {_below(document)}"


def _of_repeats(document: Document, person: Document, _: Document) -> str:
    return (
        "does not say the same again: the same side as before on "
        f"{_of(person['repeats'])}, {_below(document)}"
    )


def _of_skill(document: Document, person: Document, _: Document) -> str:
    skill = person["skill"]
    return (
        f"seems to follow the pair in only {_percent(skill)} of votes ({_interval(skill)}), "
        f"{_below(document)}"
    )


def _of_side(document: Document, person: Document, alarm: Document) -> str:
    left = person["left"]
    hits = left["hits"] if alarm["kind"] == "left" else left["n"] - left["hits"]
    others = person["others_left"]
    side = "" if others is None else f"; on the same pairs others chose {_side(others, alarm)}"
    return (
        f"presses {alarm['kind']} whatever stands there: {hits:,} of {left['n']:,} sided votes, "
        f"which the lot alone does with p = {_p(person['left_p_holm'])} "
        f"(exact, {_people_in_words(document['tested'])} tested, Holm){side}"
    )


def _side(others_left: float, alarm: Document) -> str:
    share = others_left if alarm["kind"] == "left" else 1 - others_left
    return f"that side {100 * share:.0f} % of the time"


def _of_pace(_: Document, person: Document, alarm: Document) -> str:
    seconds = person["seconds"]
    return (
        f"is very fast: median {seconds['value']:.1f} s (95 % interval {seconds['low']:.1f} to "
        f"{seconds['high']:.1f}), less than a third of what is usual for the others, "
        f"{person['others_seconds']:.1f} s"
    )


ALARMS = {
    "gold": _of_gold,
    "repeats": _of_repeats,
    "skill": _of_skill,
    "left": _of_side,
    "right": _of_side,
    "fast": _of_pace,
}


def _below(document: Document) -> str:
    return f"all of it below the minimum of {100 * document['minimum']:g} %"


def _of(share: Document) -> str:
    return f"{share['hits']:,} of {share['n']:,} ({_interval(share)})"


def _agreement(document: Document) -> Iterator[str]:
    found = document["agreement"]
    if found["undefined"] is not None:
        yield UNDEFINED[found["undefined"]]
        return
    yield (
        f"Two people take the same side of a pair, or both call it a tie, "
        f"{_percent(found['share'])} of the time ({_interval(found['share'])}); Krippendorff's "
        f"alpha, 0 for chance and 1 for always, is {_alpha(found['nominal_alpha'])} for sides and "
        f"{_alpha(found['ordinal_alpha'])} for the five grades."
    )
    counted = (
        f"{found['votes']:,} votes by {_people_in_words(found['people'])} on {found['pairs']:,} "
        f"pairs of {found['prompts']:,} prompts"
    )
    if found["resampled"] == "prompts":
        yield f"That is {counted}; intervals are from a bootstrap over prompts."
    else:
        yield (
            f"That is {counted}; with fewer than {FEWEST_CLUSTERS} prompts the intervals are from "
            "a bootstrap over pairs, and hold for these prompts alone."
        )


UNDEFINED = {
    NO_VOTES: "Nothing can be said of agreement: there are no votes on pairs to compare.",
    ONE_ANNOTATOR: "Nothing can be said of agreement: all votes to compare are by one person.",
    NO_PAIR_TWICE: (
        "Nothing can be said of agreement: no pair has votes of two people. Send batches with "
        "--overlap 2 or more."
    ),
    ALWAYS_THE_SAME: (
        "Everybody always says the same: people agree, but alpha compares that with chance, and "
        "where nothing ever varies chance would agree as well. It is not defined."
    ),
}


def _whose_pairs(document: Document) -> Iterator[str]:
    found = document["pairs_from"]
    if found["from"] == "control":
        yield (
            f"Agreement, length and style are measured on the {found['control_pairs']:,} control "
            "pairs with two votes or more: they were drawn by lot and stand for the pool, while a "
            "strategy seeks out pairs that people find harder, or easier, to agree on."
        )
    else:
        yield (
            f"Agreement, length and style are measured on all pairs but gold: "
            f"{found['control_pairs']:,} control pairs have two votes, and it takes "
            f"{found['control_pairs_needed']}. A strategy seeks out pairs that people find harder, "
            "or easier, to agree on, so agreement on the pool may be another."
        )
    if n := document["votes_after_the_first"]:
        yield (
            f"{n:,} further votes are left out of that: they were asked for because the first ones "
            "on their pair differed or left doubt, and would bias it."
        )


def _length(document: Document) -> Iterator[str]:
    longer = document["longer"]
    wins = longer["wins"]
    if wins["value"] is None:
        return
    lean = "no lean to length is shown"
    if wins["low"] > 0.5:
        lean = "people lean to length"
    elif wins["high"] < 0.5:
        lean = "people lean away from length"
    yield (
        f"The longer response is preferred in {_percent(wins)} of {longer['votes']:,} sided votes "
        f"({_interval(wins)}): {lean}. Longer answers may also be better ones."
    )
    if not document["style"]:
        yield (
            f"Too little for a regression on style: it takes {FEWEST_VOTES} sided votes on "
            f"{FEWEST_CLUSTERS_FITTED} prompts."
        )


def _what_is_missing(document: Document) -> Iterator[str]:
    few = sum(person["votes"] < document["shown_from"] for person in document["people"])
    if few:
        yield (
            f"{_people_in_words(few).capitalize()} with fewer than {document['shown_from']} votes: "
            "no skill is shown of them, no test made and no alarm raised."
        )
    if document["skills_from"] is None:
        yield "No skills yet: they come with the first consensus, which next-batch makes."


def _people_in_words(n: int) -> str:
    return "one person" if n == 1 else f"{n:,} people"


def _cell(found: Document) -> str:
    if found["value"] is None:
        return "n/a"
    return f"{_round(found['value'])} ({_round(found['low'])} to {_round(found['high'])})"


def _round(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.0f}"


def _alpha_cell(found: Document) -> str:
    if found["value"] is None:
        return "n/a"
    return f"{found['value']:.2f} ({_number(found['low'])} to {_number(found['high'])})"


def _alpha(found: Document) -> str:
    if found["value"] is None:
        return "n/a"
    return (
        f"{found['value']:.3f} ({_number(found['low'], '.3f')} to {_number(found['high'], '.3f')})"
    )


def _number(value: float | None, form: str = ".2f") -> str:
    return "n/a" if value is None else f"{value:{form}}"


def _percent(found: Document) -> str:
    return "n/a" if found["value"] is None else f"{100 * found['value']:.1f} %"


def _interval(found: Document) -> str:
    return (
        f"95 % interval {_number(_hundred(found['low']), '.1f')} to "
        f"{_number(_hundred(found['high']), '.1f')}"
    )


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _p(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1g}"


def _aligned(rows: Rows) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
