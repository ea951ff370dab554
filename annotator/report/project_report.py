"""A project's page in HTML: its sections, which the dashboard shows as well, and the whole report.

What stands in a section is put into words and cells here; the templates hold markup alone. Nothing
depends on the time of day: the same view gives the same sections.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from annotator.annotators import words as people_words
from annotator.diagnose.words import sentence as foretold_sentence
from annotator.report.map_plot import REGION_NAMES
from annotator.report.page import render_page, template_text, trusted_markup
from annotator.report.project_charts import (
    burn_charts,
    calibration_chart,
    map_chart,
    saving_charts,
)

Document = dict[str, Any]
Cell = str | Document
Table = Document

TITLES = {
    "standing": "Where we stand",
    "saving": "Budget saved",
    "burn": "Budget spent",
    "map": "Data map",
    "agreement": "People and agreement",
    "suspects": "Suspect labels",
    "judge": "Judge",
    "rounds": "Rounds",
}
ARMS = {
    "acquired": "chosen",
    "control": "drawn at random",
    "gold": "known answers",
    "repeat": "asked again",
}
CURVE_ROWS = 12  # of a savings curve's points in its table
FIRST_SUSPECTS = 6  # of a class before one unfolds the others
MOST_ROWS = 200  # of people and of rounds


@dataclass(frozen=True)
class Links:
    """Where a page shows a prompt and a pair; patterns with {id}, and {a} and {b}.

    `readable` are the prompts that it can show, None for all. The default is the dashboard's.
    """

    prompt: str = "/prompt/{id}"
    pair: str = "/pair/{a}-{b}"
    readable: frozenset[int] | None = None

    def to_prompt(self, prompt_id: int) -> str | None:
        """The address of a prompt; None where it cannot be shown."""
        if self.readable is not None and prompt_id not in self.readable:
            return None
        return self.prompt.format(id=prompt_id)

    def to_pair(self, prompt_id: int, a_id: int, b_id: int) -> str | None:
        """The address of a pair; None where it cannot be shown."""
        if self.readable is not None and prompt_id not in self.readable:
            return None
        return self.pair.format(id=prompt_id, a=a_id, b=b_id)


def sections(view: Document, links: Links = Links()) -> dict[str, str]:
    """The HTML of each section by its id, in the order of the page: a <section> element each.

    `view` is what project_view gives. They need the style sheet report.css and nothing else: no
    script, no style attribute, nothing from a network.
    """
    return {
        name: render_page(
            f"sections/{name}.html",
            id=name,
            title=TITLES[name],
            **_kept_together(SECTIONS[name](view, links)),
        )
        for name in TITLES
    }


def style_sheet() -> str:
    """The CSS of the sections, for a page that shows them."""
    return template_text("report.css")


def report_html(view: Document) -> str:
    """The whole page as one file, with the texts of `view["readable"]` where it has them."""
    readable = view.get("readable") or {"prompts": [], "n_chars": 0, "of_map": 0, "suspects": 0}
    ids = frozenset(prompt["id"] for prompt in readable["prompts"])
    links = Links("#p-{id}", "#p-{id}", ids)
    css = style_sheet()
    return render_page(
        "report.html",
        project=view["project"],
        made_at=_moment(view["made_at"]),
        css=trusted_markup(css),
        css_hash=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
        titles=TITLES,
        sections={name: trusted_markup(html) for name, html in sections(view, links).items()},
        prompts=[_readable(prompt) for prompt in readable["prompts"]],
        readable=readable,
    )


def _readable(prompt: Document) -> Document:
    responses = [
        {**one, "score": "" if one["score"] is None else f"{one['score']:.3g}"}
        for one in prompt["responses"]
    ]
    return {**prompt, "responses": responses}


# Where we stand.


def _standing(view: Document, _: Links) -> Document:
    budget, pulse = view["budget"], view["pulse"]
    if "missing" in budget:
        return {
            "sentences": list(_counts_in_words(pulse)),
            "tiles": [],
            "missing": budget["missing"],
        }
    tiles = [
        _saving_tile(budget["saving"]),
        _quality_tile(budget["quality"]),
        _votes_tile(budget["ledger"], pulse),
        _money_tile(budget["ledger"]),
    ]
    return {"sentences": budget["sentences"], "tiles": tiles, "missing": None}


def _counts_in_words(pulse: Document) -> Iterator[str]:
    if "missing" in pulse:
        yield pulse["missing"]
        return
    yield f"{_n(pulse['votes'], 'vote')} by {_people(pulse['people'])} so far."
    yield f"{_n(pulse['waiting'], 'vote')} still to come."


def _saving_tile(saving: Document) -> Document:
    """The number on which the tool is bought, or that there is none yet."""
    answer = saving["answer"]
    if answer == "saving" and saving["share"] is not None:
        note = f"95 % interval {_interval(saving)}"
        if saving["votes_ours"] and saving["votes_uniform"]:
            note += (
                f". {saving['votes_ours']:,.0f} votes do the work of "
                f"{saving['votes_uniform']:,.0f} drawn at random"
            )
        return _tile("Saved", f"{_percent(saving['share'])} of votes", f"{note}.", main=True)
    value = "nothing here" if answer == "not-saving" else "not shown yet"
    return _tile("Saved", value, _why_no_saving(saving), main=True, quiet=True)


def _why_no_saving(saving: Document) -> str:
    """What is missing, in short; the section on the saving says it at length."""
    done, needed, more = saving["control_votes"], saving["needed"], saving["more_votes"]
    if saving["answer"] == "not-saving":
        return "Pairs drawn at random are as good."
    if saving["answer"] == "no-control":
        return "No votes on pairs drawn at random (the control arm), and it takes those."
    if done < needed:
        return f"{done:,} of {needed:,} votes on pairs drawn at random."
    if more:
        return f"It would take about {_roughly(more)} more votes to show what there seems to be."
    return "The interval holds nothing to go by yet."


def _roughly(n: int) -> str:
    """Two digits of a number that is a guess."""
    return f"{int(float(f'{n:.1e}')):,}"


def _interval(found: Document) -> str:
    """Both ends in per cent; an open end in words."""
    if found["low"] is None and found["high"] is None:
        return "unknown"
    if found["high"] is None:
        return f"{_percent(found['low'])} or more"
    if found["low"] is None:
        return f"{_percent(found['high'])} or less"
    return f"{100 * found['low']:.0f} to {_percent(found['high'])}"


def _quality_tile(quality: Document) -> Document:
    accuracy = quality.get("accuracy")
    if quality["answer"] != "shown" or not accuracy or accuracy["value"] is None:
        return _tile("Votes foretold", "not known yet", quality["sentence"], quiet=True)
    low, high = (f"{100 * accuracy[end]:.1f}" for end in ("low", "high"))
    note = f"95 % interval {low} to {high} %, of people's votes on pairs drawn at random."
    return _tile("Votes foretold", f"{100 * accuracy['value']:.1f} %", note)


def _votes_tile(ledger: Document, pulse: Document) -> Document:
    cap = (ledger["cap"] or {}).get("votes")
    parts = [f"by {_people(len(ledger['annotators']))} on {_n(ledger['pairs'], 'pair')}"]
    if "missing" not in pulse:
        parts.append(f"{_n(pulse['waiting'], 'vote')} still to come")
    if cap:
        parts.insert(0, f"of at most {cap:,}")
    return _tile("Votes", f"{ledger['votes']:,}", f"{'; '.join(parts)}.")


def _money_tile(ledger: Document) -> Document:
    total = ledger["total"]
    hours = f"{_duration(ledger['seconds'])} of people's time"
    if total["amount"] is None:
        why = _full_stop(total["why_not"] or "no rates are set")
        return _tile("Spent", _duration(ledger["seconds"]), f"of people's time. {why}")
    cap = (ledger["cap"] or {}).get("cost")
    note = hours if not cap else f"of at most {_money(cap, total['currency'])}; {hours}"
    return _tile("Spent", _money(total["amount"], total["currency"]), f"{note}.")


def _tile(name: str, value: str, note: str, *, main: bool = False, quiet: bool = False) -> Document:
    return {"name": name, "value": value, "note": note, "main": main, "quiet": quiet}


# Budget saved.


def _saving(view: Document, _: Links) -> Document:
    budget = view["budget"]
    if "missing" in budget:
        return {"missing": budget["missing"]}
    saving, quality, spared = budget["saving"], budget["quality"], budget["spared"]
    return {
        "missing": None,
        "saving": saving,
        "charts": saving_charts(saving),
        "points": _curve_table(saving),
        "same_votes": _same_votes(saving),
        "progress": _control_progress(saving),
        "quality": quality["sentence"],
        "spared": spared["sentence"],
        "spared_table": _spared_table(spared),
        "certificates": _certificates(budget["certificates"]),
    }


def _control_progress(saving: Document) -> Document | None:
    """How far the control arm is on its way to what a saving takes; None once it is there."""
    done, needed = saving["control_votes"], saving["needed"]
    if saving["answer"] in ("no-control", "saving", "not-saving") or done >= needed:
        return None
    return {"done": done, "needed": needed, "words": f"{done:,} of {needed:,} control votes"}


def _curve_table(saving: Document) -> Table | None:
    curve = saving.get("curve")
    if not curve:
        return None
    rows = [
        [name, f"{p['votes']:,.0f}", _figure(p["quality"]), _ends(p)]
        for key, name in (("ours", "chosen"), ("uniform", "drawn at random"))
        for p in _thinned(curve.get(key) or [])
    ]
    head = ["pairs", "votes", str(saving["quality_name"]), "95 %"]
    return _table("Points of the savings curve", head, rows)


def _thinned(points: Sequence[Document]) -> list[Document]:
    """At most CURVE_ROWS of them at even distances, the first and the last among them."""
    n = len(points)
    if n <= CURVE_ROWS:
        return list(points)
    return [points[round(i * (n - 1) / (CURVE_ROWS - 1))] for i in range(CURVE_ROWS)]


def _same_votes(saving: Document) -> str | None:
    found = saving.get("same_votes")
    if not found or found["value"] is None:
        return None
    ends = f"{_points(found['low'], bare=True)} to {_points(found['high'])}"
    return (
        f"At the same {found['votes']:,.0f} votes the share of new votes foretold differs by "
        f"{_points(found['value'])} (95 % interval {ends}, which leaves out the luck of "
        "the votes that taught)."
    )


SPARED = {
    "overlap": "adaptive overlap",
    "inference": "inference",
    "routing": "certified routing",
}


def _spared_table(spared: Document) -> Table | None:
    rows = []
    for key, name in SPARED.items():
        found = spared.get(key)
        if found:
            error = found.get("error")
            pairs = found.get("pairs")
            rows.append(
                [
                    name,
                    f"{found['votes']:,}",
                    "" if pairs is None else f"{pairs:,}",
                    _share_and_ends(error),
                    str(found.get("against") or found.get("certificate") or ""),
                ]
            )
    if not rows:
        return None
    head = ["spared by", "votes", "pairs", "error, with its 95 % bound", "against"]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return _table("Votes spared, each kind by itself", head, rows, text={4})


def _share_and_ends(error: Any) -> str:
    if error is None:
        return "n/a"
    if isinstance(error, int | float):
        return f"at most {_percent(error)}"
    value, low, high = (error.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "n/a" if high is None else f"at most {_percent(high)}"
    return f"{_percent(value)} ({_bare(low)} to {_bare(high)})"


def _certificates(found: Sequence[Document]) -> Table | None:
    if not found:
        return None
    rows = [
        [
            f"no. {one['id']}",
            str(one["source"]),
            _percent(one["agree"]),
            _percent(one["confidence"]),
            f"{one['n_calibration']:,}",
            f"{one['pairs']:,}",
            _day(one["made_at"]),
            f"void: {one['void_because']}" if one.get("void_because") else "in force",
        ]
        for one in found
    ]
    head = ["certificate", "source", "agreement", "confidence", "control pairs", "pairs", "made",
            "state"]  # fmt: skip
    return _table("Certificates", head, rows, text={1, 6, 7})


# Budget spent.


def _burn(view: Document, _: Links) -> Document:
    budget = view["budget"]
    if "missing" in budget:
        return {"missing": budget["missing"]}
    ledger = budget["ledger"]
    return {
        "missing": None,
        "charts": burn_charts(ledger),
        "empty": "A curve comes with the second vote." if len(ledger["burn"]) < 2 else "",
        "arms": _arms_table(ledger),
        "money": _money_table(ledger),
        "caption": _burn_caption(ledger),
        "next": budget["next"]["sentence"],
        "stop": budget["stop"],
    }


def _burn_caption(ledger: Document) -> str:
    words = "Votes that came in, all arms together"
    if ledger["total"]["amount"] is not None:
        words += ", and what people cost"
    cap = ledger["cap"] or {}
    if not cap:
        return f"{words}. No cap is set."
    reserved = cap.get("votes_reserved") or 0
    waiting = (
        f" {_n(reserved, 'vote')} asked for and not given yet count against it." if reserved else ""
    )
    return f"{words}. Dashed: the cap.{waiting}"


def _arms_table(ledger: Document) -> Table | None:
    if not ledger["arms"]:
        return None
    currency = ledger["people"]["currency"]
    rows = [
        [
            ARMS.get(one["arm"], one["arm"]),
            f"{one['pairs']:,}",
            f"{one['votes']:,}",
            _duration(one["seconds"]),
            _money(one["amount"], currency),
        ]
        for one in ledger["arms"]
    ]
    return _table("By kind of pair", ["pairs", "pairs", "votes", "time", "people"], rows)


def _money_table(ledger: Document) -> Table:
    people, judge, other = ledger["people"], ledger["judge"], ledger["other"]
    requests = _n(judge["requests"], "request")
    unpriced = f", {judge['unpriced']:,} without a price" if judge["unpriced"] else ""
    rows: list[Sequence[Cell]] = [
        ["people", _money(people["amount"], people["currency"]), people["how"] or "no rates set"],
        ["judges, at most", f"{judge['usd_at_most']:,.2f} USD", f"{requests}{unpriced}"],
    ]
    if other["entries"]:
        entries = other["entries"]
        n = entries if isinstance(entries, int) else len(entries)
        words = "1 entry" if n == 1 else f"{n:,} entries"
        rows.append(["other", _money(other["amount"], people["currency"]), words])
    total = ledger["total"]
    rows.append(["all", _money(total["amount"], total["currency"]), total["why_not"] or ""])
    return _table("Money", ["for", "amount", "how"], rows, text={2})


# The data map.


def _map(view: Document, links: Links) -> Document:
    found = view["map"]
    if "missing" in found:
        return {"missing": found["missing"]}
    if not found["points"]:
        return {"missing": "No prompt has two scored responses, so none has a place."}
    href = {
        point["id"]: address
        for point in found["points"]
        if (address := links.to_prompt(point["id"])) is not None
    }
    return {
        "missing": None,
        "chart": map_chart(found, REGION_NAMES, href),
        "regions": [
            {"name": REGION_NAMES[name], "n": f"{n:,}", "where": found["where"][name], "code": code}
            for code, (name, n) in enumerate(found["counts"].items())
        ],
        "scores": found["scores"],
        "drawn": _drawn(found),
        "off": found["n_off_map"],
        "off_words": _n(found["n_off_map"], "prompt"),
        "linked": _linked(len(href), len(found["points"]), links),
    }


def _drawn(found: Document) -> str:
    n, of = len(found["points"]), found["n_on_map"]
    if n == of:
        return f"all {_n(n, 'prompt')}"
    return f"{n:,} of {of:,} prompts, drawn at random (seed {found['seed']})"


def _linked(n: int, of: int, links: Links) -> str:
    if links.readable is None or n == of:
        return "A point leads to its prompt and responses."
    if not n:
        return "The texts are not in this file."
    return (
        f"{n:,} of the points lead to their prompt and responses below: a sample, and those with "
        "suspect labels; all texts would not fit into one file."
    )


# People.


def _agreement(view: Document, _: Links) -> Document:
    found = view["people"]
    if "missing" in found:
        return {"missing": found["missing"]}
    sentences = people_words.sentences(found)
    n_alarms = sum(len(person["alarms"]) for person in found["people"])
    shown = any(person["votes"] >= found["shown_from"] for person in found["people"])
    n_first = (n_alarms or shown) + 1  # alarms, or that there are none, and agreement
    return {
        "missing": None,
        "sentences": sentences[:n_first],
        "measured": sentences[n_first:],
        "people": _people_table(found),
        "tables": [_from_rows(rows) for rows in _tables(found, "agreement")],
        "folded": [_from_rows(rows) for rows in _tables(found, "style")],
        "notes_of": found["notes"],
    }  # fmt: skip


def _tables(found: Document, name: str) -> list[list[list[str]]]:
    """The rows of that name, if there are any."""
    return [rows for key, rows in people_words.tables(found).items() if key == name]


SHARES = {
    "agreement": "agrees with others",
    "skill": "skill",
    "left": "presses left",
    "gold": "gold right",
    "repeats": "same again",
}


def _people_table(found: Document) -> Table:
    """Everybody, with shares as numbers and as bars."""
    used = [key for key in SHARES if any(_share(one, key)["value"] is not None
                                         for one in found["people"])]  # fmt: skip
    names = [person["name"] for person in found["people"]]
    rows = []
    for person in sorted(found["people"], key=lambda one: not one["alarms"])[:MOST_ROWS]:
        name = person["name"]
        if names.count(name) > 1:
            name = f"{name} ({person['id']})"
        seconds = person["seconds"]["value"]
        rows.append(
            [
                name,
                f"{person['votes']:,}",
                f"{person['skips']:,}",
                "n/a" if seconds is None else f"{seconds:.0f} s",
                *(_bar(_share(person, key)) for key in used),
                {"flags": [alarm["kind"] for alarm in person["alarms"]]},
            ]
        )
    head = ["annotator", "votes", "skips", "median", *(SHARES[key] for key in used), "alarms"]
    return _table(f"Annotators{_of_all(len(rows), len(found['people']))}", head, rows)


def _of_all(n: int, of: int) -> str:
    """Said where not all are shown."""
    return "" if n == of else f", {n:,} of {of:,}"


def _share(person: Document, key: str) -> Document:
    found: Document = person["agreement"]["share"] if key == "agreement" else person[key]
    return found


def _bar(found: Document) -> Cell:
    """A share with its interval, as a number and as a line from 0 to 1."""
    if found["value"] is None:
        return "n/a"
    low = found["value"] if found["low"] is None else found["low"]
    high = found["value"] if found["high"] is None else found["high"]
    ends = {"low": low, "high": high, "value": found["value"]}
    return {
        "text": f"{100 * found['value']:.0f} %",
        "ends": f"{_bare(low)} to {_bare(high)}",
        "bar": {key: round(100 * min(1.0, max(0.0, end)), 1) for key, end in ends.items()},
    }


# Suspects.


def _suspects(view: Document, links: Links) -> Document:
    found = view["suspects"]
    if "missing" in found:
        return {"missing": found["missing"]}
    groups = [
        {
            "name": name,
            "heading": f"{name.capitalize()}: {_how_many(found, name)}",
            "explained": EXPLAINED[name],
            "rows": [_suspect(row, links) for row in found[name][:FIRST_SUSPECTS]],
            "others": [_suspect(row, links) for row in found[name][FIRST_SUSPECTS:]],
            "top": _in_list(found, name),
            "more": _in_list(found, name) - len(found[name]),
        }
        for name in EXPLAINED
    ]
    return {
        "missing": None,
        "sentence": foretold_sentence(found),
        "works": found["foretold"]["works"],
        "groups": groups,
        "notes_of": found["notes"],
    }


EXPLAINED = {
    "likely wrong": "a label that everything else speaks against",
    "contested": "people split, or are expected to; no error",
}


def _in_list(found: Document, name: str) -> int:
    """How many of a class would be listed: its labels, of contested ones its pairs."""
    of = found["contested_pairs"] if name == "contested" else found["classes"][name]
    return int(of)


def _how_many(found: Document, name: str) -> str:
    labels = _n(found["classes"][name], "label")
    return labels if name != "contested" else f"{labels} on {_n(found['contested_pairs'], 'pair')}"


def _suspect(row: Document, links: Links) -> Document:
    return {
        **row,
        "href": links.to_pair(row["prompt_id"], row["a_id"], row["b_id"]),
        "ends": [
            {"name": name, "text": row[name], "chosen": row["label"] == name} for name in ("a", "b")
        ],
    }


# The judge.


def _judge(view: Document, _: Links) -> Document:
    found = view["judge"]
    if "missing" in found:
        return {"missing": found["missing"]}
    words = found["words"]
    return {
        "missing": None,
        "judge": words["judge"],
        "held_against": words["held_against"],
        "sentences": words["sentences"],
        "chart": calibration_chart(found),
        "tables": [_from_rows(rows) for rows in words["tables"]],
        "notes_of": found["notes"],
    }


# Rounds.


def _rounds(view: Document, _: Links) -> Document:
    known = view["rounds"]
    if "missing" in known:
        return {"missing": known["missing"]}
    if not known["rounds"]:
        return {"missing": "No round yet: `annotator next-batch` sends the first."}
    ledger = {} if "missing" in view["budget"] else view["budget"]["ledger"]
    spent = {one["round"]: one for one in ledger.get("rounds", [])}
    currency = ledger.get("people", {}).get("currency")
    newest = known["rounds"][: -MOST_ROWS - 1 : -1]
    rows = [_round(one, spent.get(one["id"]), currency) for one in newest]
    caption = f"Newest first{_of_all(len(rows), len(known['rounds']))}"
    head = ["round", "sent", "strategy", "pairs", "at random", "votes", "time", "people", "judges"]
    return {"missing": None, "rounds": _table(caption, head, rows, text={1, 2})}


def _round(one: Document, spent: Document | None, currency: str | None) -> list[Cell]:
    pairs = one["n_acquired"] + one["n_control"] + one["n_gold"] + one["n_repeat"]
    row: list[Cell] = [
        str(one["id"]),
        _day(one["started_at"]),
        str(one["strategy"]),
        f"{pairs:,}",
        f"{one['n_control']:,}",
    ]
    if spent is None:
        return [*row, "", "", "", ""]
    judged = spent.get("judge_usd")
    return [
        *row,
        f"{spent['votes']:,}",
        _duration(spent["seconds"]),
        _money(spent["amount"], currency),
        "" if judged is None else f"{judged:,.2f} USD",
    ]


SECTIONS: dict[str, Callable[[Document, Links], Document]] = {
    "standing": _standing,
    "saving": _saving,
    "burn": _burn,
    "map": _map,
    "agreement": _agreement,
    "suspects": _suspects,
    "judge": _judge,
    "rounds": _rounds,
}


# Cells and numbers.


def _table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    text: set[int] = frozenset(),  # type: ignore[assignment]
) -> Table:
    """Rows of cells. Columns are numbers, but for the first and those of `text`."""
    return {
        "caption": caption,
        "head": list(head),
        "rows": [list(row) for row in rows],
        "text": sorted({0, *text}),
    }


def _from_rows(rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first row is its head; what its first column holds is its caption."""
    return _table(rows[0][0], ["", *rows[0][1:]], rows[1:])


def _n(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count:,} people"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _bare(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.0f}"


def _points(share: float | None, *, bare: bool = False) -> str:
    if share is None:
        return "n/a"
    return f"{100 * share:+.1f}" + ("" if bare else " points")


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _ends(found: Document) -> str:
    if found.get("low") is None or found.get("high") is None:
        return "n/a"
    return f"{found['low']:.3f} to {found['high']:.3f}"


def _money(amount: float | None, currency: str | None) -> str:
    return "n/a" if amount is None else f"{amount:,.2f} {currency or ''}".rstrip()


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "n/a"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


_UNIT = re.compile(r"(?<=\d) (?=(?:%|h|s|min)(?:\W|$))")


def _kept_together(found: Any) -> Any:
    """The same document, a number and its unit never at two ends of a line; markup is left."""
    if isinstance(found, dict):
        return {key: _kept_together(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_kept_together(value) for value in found]
    return _UNIT.sub("\N{NO-BREAK SPACE}", found) if type(found) is str else found


def _full_stop(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '!', '?')) else '.'}"


def _day(at: str) -> str:
    return at[:16].replace("T", " ")


def _moment(at: str) -> str:
    return f"{_day(at)} UTC"
