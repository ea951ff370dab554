"""Views as project_view gives them, made by hand: for tests of the page without a project."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

Document = dict[str, Any]

AT = "2026-03-02T09:15:00.000000+00:00"
REGIONS = ("high-mean-low-variance", "high-variance", "low-mean")


def share(value: float | None, low: float | None = None, high: float | None = None) -> Document:
    """An estimate with its interval."""
    return {"value": value, "low": low, "high": high}


NOTHING = share(None)


def full_view(n_points: int = 400) -> Document:
    """A project in the middle of its life, with all parts."""
    return copy.deepcopy(
        {
            "project": "Helpfulness, spring",
            "made_at": AT,
             "pulse": {"votes": 1240, "skips": 12, "people": 3, "waiting": 58},
            "rounds": {"rounds": [a_round(i) for i in (1, 2, 3)]},
            "budget": budget(),
            "map": data_map(n_points),
            "people": people(),
            "suspects": suspects(),
            "judge": judge(),
            "readable": readable([1, 2, 3, 7]),
        }
    )  # fmt: skip


def empty_view() -> Document:
    """A project in which nothing has happened yet."""
    missing = {"missing": "Nobody has voted yet.", "fault": False}
    view = full_view()
    view["pulse"] |= {"votes": 0, "skips": 0, "people": 0, "waiting": 0}
    view["rounds"] = {"rounds": []}
    view["budget"] = empty_budget()
    view |= {"map": missing, "people": missing, "suspects": missing, "judge": missing}
    view["readable"] = {"prompts": [], "n_chars": 3000, "of_map": 0, "suspects": 0}
    return view


def a_round(number: int) -> Document:
    """The head of a round, as round_counts has it."""
    return {
        "id": number, "started_at": f"2026-02-{10 + number}T08:00:00+00:00",
        "strategy": "hybrid", "seed": number, "n_acquired": 340, "n_control": 60, "n_gold": 10,
        "n_repeat": 5, "overlap": 1,
    }  # fmt: skip


def budget() -> Document:
    """What budget_account gives of a project that saves."""
    return {
        "made_at": AT,
        "project": "Helpfulness, spring",
        "sentences": [
            "Spent: 1,240 votes of 3 people, 6.1 hours, 148.80 EUR.",
            "Saved: 34 % of the votes that pairs drawn at random would have taken (95 % interval "
            "12 to 48 %); the model foretells 81 % of people's votes.",
        ],
        "ledger": ledger(),
        "saving": saving(),
        "quality": {
            "answer": "shown", "votes_control": 186,
            "accuracy": share(0.812, 0.761, 0.858), "plain": share(0.806, 0.742, 0.861),
            "worth": 231, "cross_check": {**share(0.797, 0.752, 0.842), "votes": 1020},
            "cross_check_why": None, "agree": True,
            "sentence": "The model foretells 81 % of people's votes on a random pair (95 % "
            "interval 76 to 86), by 186 control votes.",
        },
        "spared": {
            "overlap": {"votes": 210, "against": "3 votes on each pair",
                        "error": share(0.021, 0.008, 0.041)},
            "inference": {"pairs": 640, "votes": 640, "confidence": 0.95,
                          "error": share(0.034, 0.012, 0.066)},
            "routing": None,
            "sentence": "Adaptive overlap spared 210 votes; 640 pairs follow from others.",
        },
        "next": {
            "votes": 100, "gain": share(0.011, 0.002, 0.019), "now": 0.812, "then": 0.823,
            "sentence": "100 more votes would bring about 1.1 points (95 % interval 0.2 to 1.9).",
        },
        "stop": {
            "advised": False, "reasons": [],
            "rules": [
                {"rule": "stable predictions", "fires": False, "detail": "kappa .94, .96, .97"},
                {"rule": "small gain", "fires": False, "detail": "up to 1.9 points, 0.5 is least"},
                {"rule": "budget", "fires": False, "detail": "1,298 of 2,000 votes"},
            ],
            "sentence": "Nothing speaks for stopping yet.",
        },
        "certificates": [
            {"id": 1, "source": "posterior", "agree": 0.85, "confidence": 0.9,
             "n_calibration": 420, "pairs": 900, "made_at": AT, "void_because": "new encoder"},
        ],
    }  # fmt: skip


def ledger() -> Document:
    """What three people, a judge and a workshop cost."""
    burn = [
        {
            "at": f"2026-02-{1 + i // 4:02d}T{8 + 3 * (i % 4):02d}:00:00+00:00",
            "votes": round(1240 * ((i + 1) / 100) ** 1.2),
            "amount": round(148.8 * ((i + 1) / 100) ** 1.2, 2),
        }
        for i in range(100)
    ]
    arms = [
        {"arm": "acquired", "pairs": 930, "votes": 1010, "seconds": 18000.0, "amount": 121.2},
        {"arm": "control", "pairs": 180, "votes": 186, "seconds": 3300.0, "amount": 22.3},
        {"arm": "gold", "pairs": 30, "votes": 30, "seconds": 460.0, "amount": 3.6},
        {"arm": "repeat", "pairs": 14, "votes": 14, "seconds": 200.0, "amount": 1.7},
    ]
    return {
        "votes": 1240, "skips": 12, "seconds": 21960.0, "votes_timed": 1238, "pairs": 1100,
        "people": {"amount": 148.8, "currency": "EUR", "how": "0.12 EUR a vote",
                   "votes_unpriced": 0},
        "judge": {"usd_at_most": 3.41, "requests": 2400, "unpriced": 0},
        "other": {"amount": 0.0, "entries": 0},
        "total": {"amount": 148.8, "currency": "EUR", "why_not": None},
        "cap": {"votes": 2000, "cost": 300.0, "votes_spent": 1240, "votes_reserved": 58,
                "cost_spent": 148.8},
        "arms": arms,
        "rounds": [
            {"round": i, "made_at": AT, "strategy": "hybrid", "arms": arms, "votes": 413,
             "seconds": 7300.0, "amount": 49.6, "judge_usd": 1.1}
            for i in (1, 2, 3)
        ],
        "annotators": [
            {"name": name, "votes": 413, "seconds": 7300.0, "amount": 49.6}
            for name in ("anna", "ben", "cleo")
        ],
        "burn": burn,
    }  # fmt: skip


def saving() -> Document:
    """A saving that is shown."""

    def point(votes: int, of: float) -> Document:
        quality = -0.69 + 0.22 * (1 - math.exp(-votes / of))
        return {"votes": votes, "quality": quality, "low": quality - 0.02, "high": quality + 0.02}

    return {
        "answer": "saving", "sentence": "Saved: 34 % of votes (95 % interval 12 to 48 %).",
        "control_votes": 186, "needed": 30, "share": 0.34, "low": 0.12, "high": 0.48,
        "votes_ours": 1240, "votes_uniform": 1880,
        "same_votes": {**share(0.021, 0.006, 0.036), "votes": 1240}, "more_votes": None,
        "looks": {"shown_at": [120, 180], "next": 270},
        "curve": {
            "ours": [point(v, 500) for v in range(100, 1241, 60)],
            "uniform": [point(v, 800) for v in range(100, 1881, 80)],
        },
        "quality_name": "votes foretold, log score",
    }  # fmt: skip


def empty_budget() -> Document:
    """Before the first vote: no price, no cap, no control arm."""
    found = budget()
    found["sentences"] = ["Nothing is spent yet.", "No saving is shown yet: nobody has voted."]
    found["ledger"] |= {
        "votes": 0, "skips": 0, "seconds": 0.0, "pairs": 0, "burn": [], "arms": [], "rounds": [],
        "annotators": [], "cap": None,
        "people": {"amount": None, "currency": None, "how": None, "votes_unpriced": 0},
        "judge": {"usd_at_most": 0.0, "requests": 0, "unpriced": 0},
        "total": {"amount": None, "currency": None, "why_not": "no rates are set"},
    }  # fmt: skip
    found["saving"] |= {
        "answer": "no-control", "sentence": "Not shown yet: there are no control votes.",
        "control_votes": 0, "share": None, "low": None, "high": None, "votes_ours": None,
        "votes_uniform": None, "same_votes": None, "curve": None,
    }  # fmt: skip
    found["quality"] = {
        "answer": "none", "votes_control": 0, "accuracy": None, "plain": None, "worth": None,
        "cross_check": None, "cross_check_why": "there are no votes", "agree": None,
        "sentence": "Not known yet: it takes 30 control votes.",
    }  # fmt: skip
    found["spared"] = {
        "overlap": None, "inference": None, "routing": None, "sentence": "Nothing was spared yet.",
    }  # fmt: skip
    found["next"] = {
        "votes": 100, "gain": None, "now": None, "then": None,
        "sentence": "What the next 100 votes would bring is not known before the first.",
    }  # fmt: skip
    found["stop"] |= {"rules": []}
    found["certificates"] = []
    return found


def data_map(n_points: int, start: str = "What would you pack for a trip of") -> Document:
    """A map of so many drawn points, ids from 1 on."""
    rng = random.Random(1)
    points = [
        {
            "id": i + 1, "mean": rng.random(), "variance": rng.random() ** 3,
            "region": REGIONS[i % 3], "start": f"{start} {i} days?",
        }
        for i in range(n_points)
    ]  # fmt: skip
    return {
        "scores": "peer agreement", "seed": 0,
        "counts": {name: (n_points + 2 - i) // 3 for i, name in enumerate(REGIONS)},
        "where": {name: f"variance at most {i + 0.5}" for i, name in enumerate(REGIONS)},
        "variance_cut": 0.35, "mean_cut": 0.5, "n_on_map": n_points, "n_off_map": 2,
        "points": points,
    }  # fmt: skip


def people(names: tuple[str, ...] = ("anna", "ben", "cleo")) -> Document:
    """Three people, one of whom presses left."""
    agreement = {
        "share": share(0.78, 0.71, 0.84), "nominal_alpha": share(0.55, 0.42, 0.66),
        "ordinal_alpha": share(0.6, 0.48, 0.7), "pairs": 90, "votes": 190, "people": 3,
        "prompts": 60, "resampled": "prompts", "undefined": None,
    }  # fmt: skip
    return {
        "minimum": 0.7, "shown_from": 20, "seed": 0,
        "pairs_from": {"from": "all", "control_pairs": 12, "control_pairs_needed": 30},
        "agreement": agreement,
        "people": [person(i, name, left=i == 1) for i, name in enumerate(names)],
        "tested": 3, "by_region": {"low-mean": agreement}, "regions_from": "peer agreement",
        "longer": {"wins": share(0.54, 0.47, 0.61), "votes": 800, "pairs": 900, "of_pairs": 900},
        "style": [], "skills_from": {"built_at": AT, "votes": 1240, "behind": False},
        "votes": 1240, "votes_compared": 190, "votes_after_the_first": 31,
        "notes": ["Votes have come since skills were last computed; they are not in them."],
    }  # fmt: skip


def person(number: int, name: str, *, left: bool) -> Document:
    """Somebody with 413 votes."""
    alarm = {"kind": "left", "bound": 0.61, "line": 0.5}
    pressed = (300, 0.73) if left else (207, 0.5)
    return {
        "id": number, "name": name, "server": "http://localhost:8080", "votes": 413, "skips": 4,
        "seconds": share(17.5, 15.0, 20.0), "others_seconds": 17.0,
        "agreement": {"votes": 60, "share": share(0.8, 0.7, 0.88), "nominal_alpha": NOTHING},
        "skill": share(0.88, 0.82, 0.93), "left_bias": share(0.02, -0.05, 0.09),
        "left": {"hits": pressed[0], "n": 411, **share(pressed[1], pressed[1] - 0.05,
                                                       pressed[1] + 0.05)},
        "left_p": 0.5, "left_p_holm": 1e-9 if left else 1.0, "others_left": 0.5,
        "shown_a_left": {"hits": 200, "n": 411, **share(0.49, 0.44, 0.54)},
        "gold": {"hits": 9, "n": 10, **share(0.9, 0.6, 0.98)},
        "repeats": {"hits": 0, "n": 0, **NOTHING},
        "alarms": [alarm] if left else [],
    }  # fmt: skip


def suspects() -> Document:
    """Two labels that look wrong, one that is contested."""
    return {
        "source": "votes of the project", "method": "surprise", "scores": "peer agreement",
        "seed": 0, "labels": 1240, "pairs": 1100, "prompts": 300, "annotators": 3,
        "foretold": {"share": 0.78, "low": 0.74, "high": 0.81, "labels": 1200, "prompts": 300,
                     "works": True},
        "classes": {"likely wrong": 14, "contested": 5, "of low impact": 300,
                    "unremarkable": 921},
        "contested_pairs": 3, "notes": [], "ranked": [],
        "likely wrong": [suspect(7), suspect(2)],
        "contested": [suspect(3)],
        "of low impact": [],
    }  # fmt: skip


def suspect(prompt_id: int, prompt: str = "How do I descale a kettle?") -> Document:
    """One label with its texts."""
    return {
        "label_id": prompt_id, "a_id": 10 * prompt_id, "b_id": 10 * prompt_id + 1, "label": "a",
        "annotator": "ben", "class": "likely wrong", "suspicion": 2.4,
        "reason": "all 2 other votes on this pair prefer the other; the model gives b 96 %",
        "expected": {"a": 0.03, "tie": 0.01, "b": 0.96}, "confidence": 0.05, "variability": 0.02,
        "scores": {"a": 0.4, "b": 0.7}, "votes": {"a": 1, "tie": 0, "b": 2},
        "verdict": "ben prefers a; votes 1 for a, 2 for b", "prompt_id": prompt_id,
        "prompt": prompt, "a": "Throw it away.", "b": "Boil vinegar in it, then rinse it well.",
    }  # fmt: skip


def judge() -> Document:
    """A judge held against people: calibration, words, one table."""
    bins = [
        {"confidence": 0.55 + 0.1 * i, "right": share(0.52 + 0.09 * i, 0.45 + 0.09 * i,
                                                      0.6 + 0.09 * i)}
        for i in range(4)
    ]  # fmt: skip
    return {
        "judges": ["judge:demo"], "notes": ["Ties count half."],
        "calibration": [{"how": "logistic", "bins": bins}],
        "words": {
            "judge": "judge:demo", "held_against": "186 votes of the control arm on 180 pairs",
            "sentences": ["The judge prefers what most people prefer on 71.0 % of 180 pairs."],
            "tables": [[["agreement by |gap|", "pairs", "agreement"],
                        ["lowest quarter", "45", "58.0 %"], ["second", "45", "66.0 %"]]],
        },
    }  # fmt: skip


def readable(prompt_ids: list[int], text: str = "Take two shirts.") -> Document:
    """Texts of these prompts, two responses each."""
    return {
        "n_chars": 3000, "of_map": len(prompt_ids), "suspects": 2,
        "prompts": [
            {
                "id": prompt_id,
                "turns": [{"role": "user", "text": f"{text} Prompt {prompt_id}."}],
                "responses": [
                    {"score": 0.71, "model": "m-1", "text": text},
                    {"score": None, "model": None, "text": text},
                ],
            }
            for prompt_id in prompt_ids
        ],
    }  # fmt: skip
