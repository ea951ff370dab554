"""The budget in words: sentences for everybody who shows it, and lines for a terminal."""

from __future__ import annotations

import shutil
import textwrap
from typing import Any

Document = dict[str, Any]
Rows = list[list[str]]

MINUTE, HOUR = 60.0, 3600.0
MIN_WIDTH, MAX_WIDTH, INDENT = 60, 100, 9
MOST_ROUNDS = 8  # that have rows of their own
ARMS = ("acquired", "control", "gold", "repeat")
SUMMED = ("pairs", "votes", "skips", "seconds", "amount")


def money(amount: float | None, currency: str | None) -> str:
    """As '1,148.80 EUR'; 'n/a' where it is not known."""
    return "n/a" if amount is None else f"{amount:,.2f} {currency}"


def duration(seconds: float) -> str:
    """As '6.1 hours' or '12 minutes'."""
    if seconds >= HOUR:
        return f"{seconds / HOUR:,.1f} hours"
    minutes = round(seconds / MINUTE)
    return f"{minutes} minutes" if minutes != 1 else "1 minute"


def counted(n: int, one: str, many: str | None = None) -> str:
    """As '1 vote' or '1,240 votes'."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def percent(found: Document) -> str:
    """An estimate with its interval, as '81.2 % (77.0 to 85.1)'."""
    if found["value"] is None:
        return f"at most {100 * found['high']:.1f} %" if found["high"] is not None else "n/a"
    return f"{100 * found['value']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def amount_in_words(books: Document) -> str:
    """All that was spent in money: one sum where there is one, or what can be told apart."""
    total, people = books["total"], books["people"]
    judge, other = books["judge"], books["other"]
    least = "at least " if total["at_least"] else ""
    if total["amount"] is not None:
        said = f"{least}{money(total['amount'], total['currency'])}"
        if total["usd"] is not None:
            said += f" (a dollar of the judges taken for {total['usd']:g} {total['currency']})"
        return said
    parts = []
    if people["amount"] is not None:
        partly = "at least " if people["votes_unpriced"] else ""
        parts.append(f"{partly}{money(people['amount'], people['currency'])} for people")
    if judge["usd_at_most"]:
        parts.append(f"at most {money(judge['usd_at_most'], 'USD')} for judges")
    if other["amount"]:
        parts.append(f"{money(other['amount'], people['currency'])} for other things")
    return " and ".join(parts)


def spent_sentence(books: Document) -> str:
    """As 'Spent: 1,240 votes of 3 people, 6.1 hours, 148.80 EUR.'"""
    n_people = len(books["annotators"])
    who = f" of {'one person' if n_people == 1 else f'{n_people} people'}" if n_people else ""
    parts = [counted(books["votes"], "vote") + who]
    if books["seconds"]:
        parts.append(duration(books["seconds"]))
    if said := amount_in_words(books):
        parts.append(said)
    sentence = f"Spent: {', '.join(parts)}."
    if books["people"]["how"] is None and books["votes"]:
        sentence += " What people cost is not known: set rate_vote or rate_hour under [budget]."
    return sentence


def quality_sentence(quality: Document) -> str:
    """How good the model is, or what is missing to say it."""
    if quality["answer"] == "none":
        return f"How good the labels are cannot be said yet: {quality['why_not']}."
    sentence = (
        "On a random pair of the pool the model foretells "
        f"{percent(quality['accuracy'])} of people's votes that take a side, of which it knows "
        f"none; by {counted(quality['votes_control'], 'control vote')}{_worth(quality)}."
    )
    if newer := quality.get("newer_pairs"):
        sentence += (
            f" It does not speak for {counted(newer, 'pair')} that came in after the first "
            "control pairs were drawn."
        )
    check = quality["cross_check"]
    if check is None:
        return f"{sentence} No cross-check: {quality['cross_check_why']}."
    if quality["agree"]:
        return f"{sentence} The strategy's own picks say {percent(check)}, which agrees."
    return (
        f"{sentence} The strategy's own picks say {percent(check)}: the two intervals do not "
        "meet, so one of them is wrong; trust neither before you know which."
    )


def _worth(quality: Document) -> str:
    """What the control votes are worth, where the model's own opinion made them more."""
    if not quality.get("power"):
        return ""
    return f", worth {quality['worth']:,.0f} with the model's help"


def standing_sentence(saving: Document, quality: Document) -> str:
    """What is saved and how good the model is, in short."""
    if quality["answer"] == "none":
        return f"{saving['sentence']} {quality['sentence']}"
    return (
        f"{saving['sentence']} The model foretells {percent(quality['accuracy'])} of people's "
        "votes on a random pair."
    )


def gain_sentence(gain: Document) -> str:
    """What the next votes would bring."""
    found = gain["gain"]
    if found is None:
        why = gain["why_not"] or "too few votes"
        return f"What the next {gain['votes']} votes would bring cannot be said yet: {why}."
    low, high = (f"{100 * found[end]:+.1f}" for end in ("low", "high"))
    if found["low"] <= 0.0 <= found["high"]:
        return (
            f"No gain of the next {gain['votes']} votes can be foretold: between {low} and {high} "
            "points of accuracy."
        )
    return (
        f"The next {gain['votes']} votes would bring {100 * found['value']:+.1f} points of "
        f"accuracy ({low} to {high})."
    )


def spared_sentence(spared: Document) -> str:
    """Votes that were not asked, each kind with what may be wrong in it."""
    parts = []
    if (overlap := spared["overlap"]) is not None:
        parts.append(
            f"{counted(overlap['votes'], 'vote')} by closing {counted(overlap['pairs'], 'pair')} "
            f"with fewer than {overlap['against']}; the others would have turned "
            f"{percent(overlap['error'])} of them"
        )
    if (inference := spared["inference"]) is not None:
        parts.append(
            f"{counted(inference['votes'], 'vote')} on {counted(inference['pairs'], 'pair')} that "
            f"follow from other votes with {100 * inference['confidence']:.0f} % confidence; "
            + _contradicted(inference)
        )
    if (routing := spared["routing"]) is not None:
        parts.append(
            f"{counted(routing['votes'], 'vote')} on {counted(routing['pairs'], 'pair')} left to a "
            f"machine under certificate {routing['certificate']}: {routing['guarantee']}"
        )
    if not parts:
        return "No vote was spared by adaptive overlap, inference or routing."
    return "Spared, each kind apart from the saving: " + "; ".join(parts) + "."


def _contradicted(inference: Document) -> str:
    if not inference["checked"]:
        return "no control pair of that kind has votes to check it by"
    found = (
        f"people's own votes were against it on {percent(inference['error'])} of "
        f"{counted(inference['checked'], 'such control pair')}"
    )
    if inference["error"]["low"] > 1.0 - inference["confidence"]:
        return f"{found}, which does not bear it out: count none of them"
    return found


def stop_sentence(stop: Document, accuracy: float | None) -> str:
    """Whether anything speaks for stopping. Stabilised does not mean good."""
    if not stop["advised"]:
        return "Nothing speaks for stopping."
    reasons = ", ".join(stop["reasons"])
    standing = (
        "how good the model is cannot be said"
        if accuracy is None
        else f"the model is right on {100 * accuracy:.1f} % of votes"
    )
    return f"You may stop: {reasons}; {standing}. Nothing is stopped for you."


def screen(document: Document) -> list[str]:
    """`annotator budget` for a terminal: tables as they are, sentences in lines that fit."""
    width = max(MIN_WIDTH, min(shutil.get_terminal_size().columns, MAX_WIDTH))
    report: list[str] = []
    for sentence in document["sentences"]:
        report += textwrap.wrap(sentence, width)
    report.append("")
    for rows in tables(document).values():
        report += [*_aligned(rows), ""]
    for heading, said in paragraphs(document).items():
        for place, sentence in enumerate(said):
            start = f"{'' if place else heading:<{INDENT}}"
            report += textwrap.wrap(start + sentence, width, subsequent_indent=" " * INDENT)
    said = notes(document["ledger"])
    report += [""] * bool(said)
    for note in said:
        report += textwrap.wrap(note, width)
    return report


def paragraphs(document: Document) -> dict[str, list[str]]:
    """What is to be read under each heading, beside the sentences that stand first."""
    stop = document["stop"]
    rules = [f"{rule['rule']}: {rule['detail']}" for rule in stop["rules"]]
    found = {
        "saving": saving_details(document["saving"]),
        "quality": [document["quality"]["sentence"]],
        "spared": [document["spared"]["sentence"]],
        "next": [document["next"]["sentence"]],
        "stop": [stop["sentence"], *rules],
    }
    return {heading: said for heading, said in found.items() if said}


def saving_details(saving: Document) -> list[str]:
    """What the saving's sentence leaves out: the difference with as many votes."""
    same = saving.get("same_votes")
    if same is None:
        return []
    value, low, high = (f"{100 * same[name]:+.1f}" for name in ("value", "low", "high"))
    return [
        f"With {counted(same['votes'], 'vote')} each, the project's choice foretells {value} "
        f"points ({low} to {high}) more of the control arm's votes than a uniform choice. The "
        "interval leaves out the luck of the votes that taught."
    ]


def tables(document: Document) -> dict[str, Rows]:
    """Rows of cells by what they tell of, the first row being the head; empty ones left out."""
    books = document["ledger"]
    found = {
        "rounds": _rounds(books),
        "annotators": _annotators(books),
        "money": _money(books),
    }
    return {name: rows for name, rows in found.items() if len(rows) > 1}


def _rounds(books: Document) -> Rows:
    """One row for each arm of the newest rounds, one for each arm of all before, and the sum.

    Money only where people have a rate.
    """
    priced = books["people"]["how"] is not None
    judged = any(one["judge_usd"] for one in books["rounds"])
    head = ["round", "arm", "pairs", "votes", "skips", "hours"]
    rows = [head + [books["people"]["currency"]] * priced + ["judge USD"] * judged]
    answered = [one for one in books["rounds"] if one["arms"] or one["judge_usd"]]
    for one in _earlier(answered[:-MOST_ROUNDS]) + answered[-MOST_ROUNDS:]:
        nothing = {"arm": "", "pairs": 0, "votes": 0, "skips": 0, "seconds": 0.0, "amount": None}
        for place, arm in enumerate(one["arms"] or [nothing]):
            name = f"{one['round']} {one['strategy']}" if not place else ""
            row = [name, arm["arm"], f"{arm['pairs']:,}", *_work(arm, priced)]
            usd = f"{one['judge_usd'] or 0:,.2f}" if not place else ""
            rows.append(row + [usd] * judged)
    if len(rows) > 1:
        whole = books | {"amount": books["people"]["amount"]}
        usd = f"{books['judge']['usd_at_most']:,.2f}"
        rows.append(["all", "", f"{books['pairs']:,}", *_work(whole, priced)] + [usd] * judged)
    return rows


def _earlier(rounds: list[Document]) -> list[Document]:
    """Several rounds as one, arm by arm; no row for none."""
    if not rounds:
        return []
    arms: dict[str, Document] = {}
    for arm in (arm for one in rounds for arm in one["arms"]):
        whole = arms.setdefault(arm["arm"], dict.fromkeys(SUMMED, 0) | {"arm": arm["arm"]})
        for name in SUMMED:
            if arm[name] is not None:
                whole[name] += arm[name]
    strategies = sorted({one["strategy"] for one in rounds})
    return [
        {
            "round": f"{rounds[0]['round']}-{rounds[-1]['round']}",
            "strategy": strategies[0] if len(strategies) == 1 else "several",
            "arms": [arms[arm] for arm in ARMS if arm in arms],
            "judge_usd": sum(one["judge_usd"] or 0.0 for one in rounds),
        }
    ]


def _work(entry: Document, priced: bool) -> list[str]:
    cells = [f"{entry['votes']:,}", f"{entry['skips']:,}", f"{entry['seconds'] / HOUR:,.1f}"]
    if priced:
        cells.append("n/a" if entry["amount"] is None else f"{entry['amount']:,.2f}")
    return cells


def _annotators(books: Document) -> Rows:
    priced = books["people"]["how"] is not None
    head = ["annotator", "votes", "skips", "hours"]
    rows = [head + [books["people"]["currency"]] * priced]
    rows += [[one["name"], *_work(one, priced)] for one in books["annotators"]]
    return rows


def _money(books: Document) -> Rows:
    """Where the money went; nothing where only people cost any, which the other tables say."""
    rows = [["money", "amount", ""]]
    judge, other, total = books["judge"], books["other"], books["total"]
    if not judge["requests"] and not other["entries"] and books["cap"] is None:
        return rows
    people = books["people"]
    rows.append(["people", money(people["amount"], people["currency"]), people["how"] or ""])
    if judge["requests"]:
        told = counted(judge["requests"], "request")
        if judge["unpriced"]:
            told += f", {judge['unpriced']:,} of them without a price"
        rows.append(["judges", money(judge["usd_at_most"], "USD"), f"at most, {told}"])
    rows += [
        ["other", money(one["amount"], people["currency"]), f"{one['note']} ({one['at'][:10]})"]
        for one in other["entries"]
    ]
    rows.append(["total", money(total["amount"], total["currency"]), total["why_not"] or ""])
    cap = books["cap"]
    if cap is not None and cap["cost"] is not None:
        reserved = f"{money(cap['cost_reserved'], cap['currency'])} reserved for votes to come"
        rows.append(["cap", money(cap["cost"], cap["currency"]), reserved])
    if cap is not None and cap["votes"] is not None:
        reserved = f"{cap['votes_spent']:,} spent, {cap['votes_reserved']:,} reserved"
        rows.append(["cap", f"{cap['votes']:,} votes", reserved])
    return rows


def notes(books: Document) -> list[str]:
    """What a reader should know about the figures."""
    found = []
    people = books["people"]
    if people["how"] is not None and people["votes_unpriced"]:
        found.append(
            f"{counted(people['votes_unpriced'], 'vote')} without a price: the annotator has no "
            "rate, or the server told no time."
        )
    if people["names_unknown"]:
        found.append(
            f"Rates for {', '.join(people['names_unknown'])} under [budget], and nobody of that "
            "name has voted."
        )
    if people["how"] is not None and books["votes_timed"] < books["votes"]:
        missing = books["votes"] - books["votes_timed"]
        found.append(f"The server told no time of {counted(missing, 'vote')}.")
    return found


def _aligned(rows: Rows) -> list[str]:
    """Columns of numbers to the right, all others to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numbers = [all(_is_number(row[i]) for row in rows[1:]) for i in range(len(widths))]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in rows
    ]


def _is_number(cell: str) -> bool:
    """Whether the cell is one, perhaps with its unit; an empty cell may be."""
    first, _, unit = cell.partition(" ")
    bare = first.replace(",", "").replace(".", "").lstrip("-")
    return cell in ("", "n/a") or (bare.isdigit() and " " not in unit)
