"""A check in words: lines for a terminal, and the same rows for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from annotator.signals.judges.trust import FEWEST_PROMPTS

Document = dict[str, Any]
Rows = list[list[str]]

NAMED = 3  # judges that are named; of more, their number is told
LISTED = 10  # judges in a table of judges


def lines(document: Document) -> list[str]:
    """The report for a terminal."""
    report = [f"judge   {judge_in_words(document)}", f"people  {people_in_words(document)}"]
    if said := sentences(document):
        report += ["", *said]
    for rows in tables(document).values():
        report += ["", *_aligned(rows)]
    return report + (["", *document["notes"]] if document["notes"] else [])


def judge_in_words(document: Document) -> str:
    """Whose scores were checked."""
    judges = document["judges"]
    if len(judges) == 1:
        return str(judges[0])
    if len(judges) <= NAMED:
        return f"the mean of {', '.join(judges)}"
    return f"the mean of {len(judges)} judges, {judges[0]} to {judges[-1]}"


def people_in_words(document: Document) -> str:
    """Whose verdicts it was held against."""
    people = document["people"]
    if people is None:
        return "nobody yet"
    votes = "" if people["votes"] is None else f"{people['votes']:,} "
    where = f" on {people['pairs']:,} pairs of {people['prompts']:,} prompts"
    return f"{votes}{people['words']}{where}"


def sentences(document: Document) -> list[str]:
    """What a reader should take away, one plain sentence each."""
    if document["people"] is None:
        return list(_injection(document))
    return [
        *_agreement(document),
        *_doubt(document),
        *_difficulty(document),
        *_length(document),
        *_flips(document),
        *_injection(document),
    ]


def tables(document: Document) -> dict[str, Rows]:
    """Rows of cells by what they tell of, the first row being the head; empty ones left out."""
    styles = {"injection": _styles(document.get("injection"))}
    found = styles if document["people"] is None else {**_held(document), **styles}
    return {name: rows for name, rows in found.items() if len(rows) > 1}


def _held(document: Document) -> dict[str, Rows]:
    """What comes of holding the judge against people."""
    return {
        "by |gap|": _strata("agreement by |gap|", document["by_gap"]),
        "by spread": _strata("agreement by spread between judges", document["by_spread"]),
        "by region": _regions(document),
        "length": _lengths(document),
        "each judge": _judges("each judge by itself", document["each_judge"]),
        "judges of pairs": _judges("judges of pairs", document["pair_judges"]),
    }


def _agreement(document: Document) -> Iterator[str]:
    found, pairs = document["agreement"], document["pairs"]
    yield (
        f"The judge prefers what most people prefer on {_percent(found)} of {_count(found)} pairs "
        f"({_interval(found)}, bootstrap over {found['prompts']:,} prompts)."
    )
    ties = []
    if pairs["judge_tied"]:
        decided = document["agreement_decided"]
        ties.append(
            f"{pairs['judge_tied']:,} of them are ties of the judge and count half, without them "
            f"it is {_percent(decided)}"
        )
    if pairs["people_tied"]:
        ties.append(f"{pairs['people_tied']:,} more, on which people are tied, are left out")
    if ties:
        yield _sentence("; ".join(ties))
    if people := document["people"]["agree"]:
        yield (
            f"Two votes of people on one pair match {_percent(people)} of the time "
            f"({_interval(people)})."
        )
    yield _verdict(document)


def _verdict(document: Document) -> str:
    """Whether the judge may drive anything: it has to beat a coin, and should beat length."""
    if not document["conclusive"]:
        n = document["agreement"]["prompts"]
        return (
            f"Too few prompts for a verdict, {n} of at least {FEWEST_PROMPTS}: choose and accept "
            "nothing by these scores yet."
        )
    low = document["agreement"]["low"]
    if low is None or low <= 0.5:
        return "A coin may be as good: choose and accept nothing by these scores yet."
    longer = document["longer"]
    if longer is None:
        return "It beats a coin; without texts nobody knows whether it beats taking the longer one."
    gain = longer["judge_better_by"]
    taken = f"always taking the longer response ({_percent(longer['agreement'])})"
    if not _enough(gain):
        return f"It beats a coin; too few prompts to tell whether it beats {taken}."
    if gain["low"] > 0:
        return f"It beats a coin, and it beats {taken} by {_points(gain)}."
    if gain["high"] < 0:
        return f"It beats a coin, but {taken} is better, by {_points(gain, -1)}."
    return f"It beats a coin; it is not shown to beat {taken}: {_points(gain)}."


def _doubt(document: Document) -> Iterator[str]:
    for found in document["calibration"]:
        gain = found["gain"]
        better = _either(gain, "better than", "not shown to be better than")
        better = better or "with too few prompts to compare it with"
        yield (
            f"{HOW[found['how']]}: Brier score {found['brier']['value']:.3f}, {better} one "
            f"confidence for all pairs, {found['brier_constant']:.3f} (gain {_plain(gain)}); log "
            f"loss {found['log_loss']['value']:.3f} (a coin: 0.693)."
        )


def _enough(found: Document) -> bool:
    """Whether this figure comes from prompts enough for a verdict."""
    return bool(found["prompts"] >= FEWEST_PROMPTS)


def _either(found: Document, shown: str, not_shown: str) -> str | None:
    """`shown` where the interval is above 0, else `not_shown`; None with too few prompts."""
    if not _enough(found):
        return None
    return shown if found["low"] > 0 else not_shown


HOW = {
    "logistic": "Probabilities learnt from votes on other prompts",
    "normal": "Probabilities from the judge's own variances",
}


def _difficulty(document: Document) -> Iterator[str]:
    for key, what in (("by_gap", "the gap's size"), ("by_spread", "the spread between judges")):
        if document[key] is None:
            continue
        gain = document[key]["top_less_bottom"]
        if gain["low"] is None:
            continue
        told = _either(gain, "tells", "is not shown to tell")
        if told is None:
            continue
        but = "but " if gain["low"] > 0 else ""
        yield (
            f"{what[0].upper()}{what[1:]} {told} easy pairs from hard ones: highest quarter less "
            f"lowest {_points(gain)}{_out_of_order(document[key]['quartiles'], but)}."
        )


def _out_of_order(quartiles: Sequence[Document], but: str) -> str:
    """Said where the quarters do not rise one after the other."""
    shares = [one["agreement"]["value"] for one in quartiles]
    if shares == sorted(shares):
        return ""
    return f", {but}not in order: {', '.join(_bare(share) for share in shares)} %"


def _length(document: Document) -> Iterator[str]:
    length = document["length"]
    if length is None or length["judge_takes_longer"]["value"] is None:
        return
    judge, people = length["judge_takes_longer"], length["people_take_longer"]
    more = length["judge_more_often_by"]
    yield (
        f"The judge takes the longer response {_percent(judge)} of the time, people "
        f"{_percent(people)} on the same pairs: {_bias(more)}."
    )


def _bias(more: Document) -> str:
    if not _enough(more):
        return f"too few prompts to tell whether it leans, {_points(more)}"
    if more["low"] > 0:
        return f"it leans to length by {_points(more)}"
    if more["high"] < 0:
        return f"it leans away from length by {_points(more, -1)}"
    return f"no lean to length is shown, {_points(more)}"


def _flips(document: Document) -> Iterator[str]:
    if flips := document["flips"]:
        yield (
            f"Asked in both orders, the judge changed its verdict on {_percent(flips)} of "
            f"{_count(flips)} pairs ({_interval(flips)})."
        )


def _injection(document: Document) -> Iterator[str]:
    found = document.get("injection")
    if not found:
        return
    yield (
        f"A planted line that asks for the highest grade raised {_percent(found['rose'])} of "
        f"{found['responses']:,} responses by a grade or more ({_interval(found['rose'])}); "
        f"mean rise {_grades(found['mean'])}."
    )
    above, harmless = found["above_placebo"], found["rose_by_placebo"]
    if above is not None and above["value"] is not None:
        yield (
            f"A harmless line raised {_percent(harmless)}. Beyond it the planted lines move a "
            f"grade by {_grades(above)}: {_obeys(above)}."
        )


def _obeys(above: Document) -> str:
    if not _enough(above):
        return f"too few prompts for a verdict, {above['prompts']} of at least {FEWEST_PROMPTS}"
    if above["low"] > 0:
        return "a response can talk this judge into a higher grade"
    if above["high"] < 0:
        return "it grades a response down for asking"
    return "that it can be talked into a higher grade is not shown; other lines may do it"


def _grades(found: Document) -> str:
    value, low, high = (f"{round(found[k], 2) + 0.0:+.2f}" for k in ("value", "low", "high"))
    return f"{value} (95 % interval {low} to {high})"


def _strata(title: str, strata: Document | None) -> Rows:
    if strata is None:
        return []
    rows = [[title, "from", "to", "pairs", "agreement", "95 %"]]
    for name, one in zip(QUARTERS, strata["quartiles"], strict=False):
        found = one["agreement"]
        ends = [f"{one['from']:.3g}", f"{one['to']:.3g}"]
        rows.append([name, *ends, *_cells(found)])
    return rows


QUARTERS = ("lowest quarter", "second", "third", "highest quarter")


def _regions(document: Document) -> Rows:
    head = [f"agreement by region (map of {document['regions_from']})"]
    rows = [[*head, "pairs", "agreement", "95 %"]]
    return rows + [[name, *_cells(one)] for name, one in document["by_region"].items()]


def _lengths(document: Document) -> Rows:
    rows = [["correlation with log length, within prompts", "Pearson", "95 %", "Spearman", "95 %"]]
    length = document["length"] or {}
    for key, what in LENGTHS.items():
        if key in length:
            both = (length[key]["pearson"], length[key]["spearman"])
            rows.append([what, *(cell for one in both for cell in (_value(one), _plain(one)))])
    return rows


LENGTHS = {
    "score": "judge's scores",
    "people": "people's scores",
    "judge_wins": "judge's wins on the voted pairs",
    "people_wins": "people's wins on the voted pairs",
}


def _styles(injection: Document | None) -> Rows:
    """The share that rose by a grade or more under each style of planted line."""
    rows = [["rose by a grade or more under", "responses", "rose", "95 %"]]
    if injection is None:
        return rows
    if harmless := injection["rose_by_placebo"]:
        rows.append(["a harmless line", *_cells(harmless)])
    return rows + [
        [f"planted: {name}", *_cells(one)] for name, one in injection["by_style"].items()
    ]


def _judges(title: str, judges: Sequence[Document]) -> Rows:
    """The best of them; with many, the first place is partly luck, which the head says."""
    many = len(judges) > LISTED
    head = f"{title}, best {LISTED} of {len(judges)}" if many else f"{title}, best first"
    rows = [[head, "pairs", "agreement", "95 %", "ties"]]
    rows += [
        [one["name"], *_cells(one["agreement"]), f"{one['judge_tied']:,}"]
        for one in judges[:LISTED]
    ]
    flips = [one.get("flips") for one in judges[:LISTED]]
    if any(flips):
        cells = ["flips", *("" if one is None else _percent(one) for one in flips)]
        rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
    return rows


def _cells(found: Document) -> list[str]:
    return [_count(found), _percent(found), f"{_bare(found['low'])} to {_bare(found['high'])}"]


def _percent(found: Document) -> str:
    return f"{_bare(found['value'])} %" if found["value"] is not None else "n/a"


def _bare(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def _interval(found: Document) -> str:
    return f"95 % interval {_bare(found['low'])} to {_bare(found['high'])}"


def _points(found: Document, sign: int = 1) -> str:
    low, high = sorted(sign * 100 * found[end] for end in ("low", "high"))
    return f"{sign * 100 * found['value']:+.1f} points ({low:+.1f} to {high:+.1f})"


def _plain(found: Document) -> str:
    if found["low"] is None:
        return "n/a"
    return f"{found['low']:.3f} to {found['high']:.3f}"


def _value(found: Document) -> str:
    return "n/a" if found["value"] is None else f"{found['value']:+.3f}"


def _count(found: Document) -> str:
    return f"{round(found['n']):,}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


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
