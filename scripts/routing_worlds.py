#!/usr/bin/env python3
"""How often the promise of `annotator route` is broken: docs/routing/*.json and docs/routing.md.

Simulated worlds, in which it is known how often people would agree with a source on every pair of
the pool. Rounds go by: each draws a control arm and lets a strategy take pairs, people vote once a
pair, and after every round the source is tested until it is certified, by the code of `annotator
route` (annotator.budget.routing). A world is broken if any certificate that it ever gave was false
when it was given: people agree on fewer of all the pairs that it covers than was promised. Rivals
that look plausible are put to the same votes. The page is made of the stored JSON and of nothing
else; docs/routing/reading.md, which says what it means, stands before it.

    python scripts/routing_worlds.py                     # every kind, 500 worlds
    python scripts/routing_worlds.py calibrated --worlds 2000
    python scripts/routing_worlds.py --page-only
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.special import expit
from scipy.stats import beta as beta_distribution

from annotator import __version__
from annotator.budget.routing import (
    Calibration,
    Taken,
    Test,
    bears_out,
    certified,
    certify,
    level_of,
    look_due,
    look_size,
)

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "docs" / "routing"
PAGE = ROOT / "docs" / "routing.md"
AGREE, CONFIDENCE = 0.8, 0.9
DELTA = 1.0 - CONFIDENCE
PAIRS = 8_000
CONTROL, ACQUIRED = 50, 50  # a round
LOOKS = tuple(look_size(i) for i in range(8))
MARKS = (100, 200, 400, 800, 1600)  # control votes at which coverage is taken
SEED = 20_260_101

Floats = np.ndarray
Document = dict[str, Any]


@dataclass
class World:
    """A pool: of each pair the source's confidence, P(a vote is for its side), and the prompt.

    `easy_first`: the strategy takes the pairs on which people agree most, `acquired` a round; else
    it takes pairs by lot. Nobody tests before there are `first_run` control votes. `shares` are the
    promises that are tried one after the other, in every round.
    """

    confidence: Floats
    agreement: Floats
    prompt: np.ndarray
    easy_first: bool = False
    acquired: int = ACQUIRED
    first_run: int = 0
    shares: tuple[float, ...] = (AGREE,)


def main() -> None:
    options = parse()
    if not options.page_only:
        for kind in options.kinds or [*KINDS, *POSTERIOR_KINDS]:
            run_kind(kind, options.worlds)
    PAGE.write_text(page(stored()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help="worlds to live through; all where none is named")
    parser.add_argument("--page-only", action="store_true", help="make the page of what is stored")
    parser.add_argument("--worlds", type=int, default=500, help="how many of each kind")
    options = parser.parse_args()
    if unknown := set(options.kinds) - {*KINDS, *POSTERIOR_KINDS}:
        parser.error(f"no such worlds: {', '.join(sorted(unknown))}")
    return options


# Kinds of worlds. Each says of every pair how sure the source is and how often people agree.


def calibrated(rng: np.random.Generator) -> World:
    """The source's confidence is how often people agree with it."""
    sure = 0.5 + 0.5 * rng.beta(0.9, 1.26, PAIRS)
    return World(sure, sure, _prompts(rng, PAIRS))


def overconfident(rng: np.random.Generator) -> World:
    """It claims twice as much above a coin's as is true, and misjudges how sure it may be."""
    claimed = 0.5 + 0.5 * rng.beta(2.0, 1.0, PAIRS)
    agreement = 0.5 + 0.5 * (claimed - 0.5) + 0.18 * rng.normal(size=PAIRS)
    return World(claimed, np.clip(agreement, 0.05, 0.99), _prompts(rng, PAIRS))


def not_monotone(rng: np.random.Generator) -> World:
    """People agree most where it is fairly sure; with its surest tenth only half of them do."""
    sure = rng.random(PAIRS)
    agreement = np.where(sure > 0.9, 0.5, 0.6 + 0.36 * sure)
    return World(sure, agreement, _prompts(rng, PAIRS))


def dip(rng: np.random.Generator) -> World:
    """The surest pairs are right, those after them far below the promise, the next ones right."""
    sure = rng.random(PAIRS)
    agreement = np.select([sure > 0.8, sure > 0.6, sure > 0.3], [0.93, 0.62, 0.9], 0.6)
    return World(sure, agreement, _prompts(rng, PAIRS))


def few_levels(rng: np.random.Generator) -> World:
    """It knows three degrees of confidence; with the first two people agree just too rarely."""
    level = rng.integers(0, 3, PAIRS)
    agreement = np.array([0.6, 0.79, 0.795])[level]
    return World(level.astype(np.float64), agreement, _prompts(rng, PAIRS))


def one_level(rng: np.random.Generator) -> World:
    """It is always equally sure, and people agree with 0.5 points less than was promised."""
    return World(np.ones(PAIRS), np.full(PAIRS, AGREE - 0.005), _prompts(rng, PAIRS))


def on_the_edge(rng: np.random.Generator) -> World:
    """However sure it is, people agree with 0.1 points less than was promised: the worst case."""
    return World(rng.random(PAIRS), np.full(PAIRS, AGREE - 0.001), _prompts(rng, PAIRS))


def confidently_wrong(rng: np.random.Generator) -> World:
    """On an eighth of the prompts it is very sure and people disagree; else it is calibrated."""
    prompt = _prompts(rng, PAIRS)
    sure = 0.5 + 0.5 * rng.beta(0.9, 1.0, PAIRS)
    fooled = (rng.random(prompt.max() + 1) < 0.125)[prompt]
    sure = np.where(fooled, 0.9 + 0.1 * rng.random(PAIRS), sure)
    return World(sure, np.where(fooled, 0.25, sure), prompt)


def large_prompts_worse(rng: np.random.Generator) -> World:
    """Nine of ten prompts have one pair, on which people agree; the others have 120 each.

    On those people agree a little less than was promised, each prompt being different. So the
    promise is true of prompts and, by 0.3 points, false of pairs.
    """
    pairs = rng.permutation(np.repeat([1, 120], [580, 65]))
    prompt = np.repeat(np.arange(len(pairs)), pairs)
    own = rng.normal(0.0, 0.5, len(pairs))[prompt]
    agreement = expit(np.where(pairs[prompt] == 1, 5.0, 1.35) + own)
    agreement = np.clip(agreement + AGREE - 0.003 - agreement.mean(), 0.0, 1.0)
    return World(rng.random(len(prompt)), agreement - max(0.0, agreement.mean() - 0.797), prompt)


def easy_ones_taken(rng: np.random.Generator) -> World:
    """The strategy takes those pairs of a small pool on which people agree most, and takes many.

    So people agree less on what is left than on the pairs that the control arm was drawn from. The
    source is first tested when there are 400 control votes.
    """
    agreement = np.where(rng.random(4_000) < 0.74, 0.97, 0.72)
    world = World(rng.random(4_000), agreement, _prompts(rng, 4_000))
    world.easy_first, world.acquired, world.first_run = True, 300, 400
    return world


def many_promises(rng: np.random.Generator) -> World:
    """Six shares are tried, from .9 down to .78, of a source that is just below each of them."""
    shares = (0.9, 0.87, 0.85, 0.82, 0.8, 0.78)
    agreement = np.full(PAIRS, rng.choice(shares) - 0.001)
    return World(rng.random(PAIRS), agreement, _prompts(rng, PAIRS), shares=shares)


def _prompts(rng: np.random.Generator, n_pairs: int, most: int = 5) -> np.ndarray:
    """The prompt of each pair: 2 to `most` responses, all pairs of them."""
    responses = rng.integers(2, most + 1, n_pairs)
    pairs = responses * (responses - 1) // 2
    return np.repeat(np.arange(n_pairs), pairs)[:n_pairs]


KINDS: dict[str, Callable[[np.random.Generator], World]] = {
    "calibrated": calibrated,
    "overconfident": overconfident,
    "not-monotone": not_monotone,
    "dip": dip,
    "few-levels": few_levels,
    "one-level": one_level,
    "on-the-edge": on_the_edge,
    "confidently-wrong": confidently_wrong,
    "large-prompts-worse": large_prompts_worse,
    "easy-ones-taken": easy_ones_taken,
    "many-promises": many_promises,
}


# Ways to decide. All see the same votes, after every round.


@dataclass
class State:
    """What a way to decide sees after a round, for one promise."""

    votes: Calibration  # in the order of their answers
    prompt: np.ndarray  # of these
    pool: Floats  # confidence of the pairs that are left
    taken: Taken
    share: float
    promise: int
    looked: set[tuple[int, int]] = field(default_factory=set)


def ours(state: State, thin: bool = False) -> Test | None:
    """As `annotator route` does."""
    look = look_due(len(state.votes))
    if look is None or (state.promise, look) in state.looked:
        return None
    state.looked.add((state.promise, look))
    votes, rows = state.votes.take(slice(0, look_size(look))), slice(None)
    if thin:
        _, rows = np.unique(state.prompt[: look_size(look)], return_index=True)
    level = level_of(look, state.promise, DELTA)
    tests = certify(votes.take(rows), state.pool, state.taken, state.share, level)
    for test in reversed([test for test in tests if test.passed]):
        if thin or _borne_out(state, test.threshold):
            return test
    return None


def every_round(state: State) -> Test | None:
    """Tests anew after every round, each time at the whole chance of being wrong."""
    if len(state.votes) < look_size(0):
        return None
    return certified(certify(state.votes, state.pool, state.taken, state.share, DELTA))


def one_a_prompt(state: State) -> Test | None:
    """As ours, but with the first answered pair of each prompt only."""
    return ours(state, thin=True)


def what_was_taken_ignored(state: State) -> Test | None:
    """As ours, but as if strategies had taken nothing since the control pairs were drawn."""
    blind = State(
        state.votes, state.prompt, state.pool, Taken.nothing(), state.share, state.promise,
        state.looked,
    )  # fmt: skip
    return ours(blind)


def best_threshold(state: State) -> Test | None:
    """At the looks, with their shares of the chance, but the best of all thresholds that pass.

    No fixed sequence: a threshold may pass after one before it has failed.
    """
    look = look_due(len(state.votes))
    if look is None or (state.promise, look) in state.looked:
        return None
    state.looked.add((state.promise, look))
    votes = state.votes.take(slice(0, look_size(look)))
    found = None
    for share in np.linspace(0.05, 1.0, 60):
        threshold = float(np.quantile(state.pool, 1.0 - share))
        if bears_out(threshold, votes, state.pool, state.taken, state.share, DELTA):
            covered = int(np.count_nonzero(state.pool >= threshold))
            found = Test(threshold, covered, 0, 0, 0.0, 0.0)
    return found


def _borne_out(state: State, threshold: float) -> bool:
    return bears_out(threshold, state.votes, state.pool, state.taken, state.share, DELTA)


OURS = "annotator route"
EVERY, ONE, BLIND, BEST = (
    "tested after every round", "one pair a prompt", "what was taken ignored",
    "best of all thresholds",
)  # fmt: skip
WAYS: dict[str, Callable[[State], Test | None]] = {
    OURS: ours,
    EVERY: every_round,
    ONE: one_a_prompt,
    BLIND: what_was_taken_ignored,
    BEST: best_threshold,
}
# Which rivals are tried where.
RIVALS = {
    "calibrated": (EVERY,),
    "on-the-edge": (EVERY, BEST),
    "large-prompts-worse": (ONE,),
    "easy-ones-taken": (BLIND,),
}


@dataclass
class Life:
    """What a way to decide has done in one world."""

    state: dict[int, State] = field(default_factory=dict)
    looked: set[tuple[int, int]] = field(default_factory=set)
    threshold: float | None = None
    share: float = 0.0
    broken: bool = False
    false_at_end: bool = False
    ever: bool = False
    voided_true: int = 0
    coverage: dict[int, float] = field(default_factory=dict)


def live(world: World, rng: np.random.Generator, way: Callable[[State], Test | None]) -> Life:
    """One world, round by round, with one way to decide."""
    n = len(world.confidence)
    left = np.ones(n, dtype=bool)
    control: list[int] = []
    drawn: list[int] = []
    taken: list[int] = []
    taken_in: list[int] = []
    agreed = rng.random(n) < world.agreement  # the one vote that a pair gets
    life = Life()
    for number in range(1, MARKS[-1] // CONTROL + 1):
        if left.sum() < CONTROL + world.acquired:
            break
        new = rng.choice(np.flatnonzero(left), CONTROL, replace=False)
        control += new.tolist()
        drawn += [number] * CONTROL
        left[new] = False
        chosen = _chosen(world, left, life.threshold, rng)
        taken += chosen.tolist()
        taken_in += [number] * len(chosen)
        left[chosen] = False
        idle = way is ours and life.threshold is None and len(control) not in LOOKS
        if len(control) >= world.first_run and not idle:
            votes = Calibration(world.confidence[control], agreed[control], np.array(drawn))
            gone = Taken(
                world.confidence[taken], agreed[taken].astype(np.float64), np.array(taken_in)
            )
            _decide(world, left, votes, world.prompt[control], gone, way, life)
        if life.broken and way is not ours:
            break  # of a rival nothing else is told
        if len(control) in MARKS:
            life.coverage[len(control)] = _coverage(world, left, life.threshold)
    life.false_at_end = life.threshold is not None and _is_false(world, left, life)
    return life


def _chosen(
    world: World, left: np.ndarray, threshold: float | None, rng: np.random.Generator
) -> np.ndarray:
    """What the strategy takes, none of which is routed."""
    offered = left if threshold is None else left & (world.confidence < threshold)
    places = np.flatnonzero(offered)
    if world.easy_first:
        places = rng.permutation(places)
        return places[np.argsort(-world.agreement[places], kind="stable")][: world.acquired]
    return rng.choice(places, min(world.acquired, len(places)), replace=False, shuffle=False)


def _decide(
    world: World,
    left: np.ndarray,
    votes: Calibration,
    prompt: np.ndarray,
    taken: Taken,
    way: Callable[[State], Test | None],
    life: Life,
) -> None:
    pool = world.confidence[left]
    if life.threshold is not None and not bears_out(
        life.threshold, votes, pool, taken, life.share, DELTA
    ):
        life.voided_true += not _is_false(world, left, life)
        life.threshold = None
    for promise, share in enumerate(world.shares, start=1):
        found = way(State(votes, prompt, pool, taken, share, promise, life.looked))
        if found is not None:
            life.ever, life.threshold, life.share = True, found.threshold, share
            life.broken |= _is_false(world, left, life)


def _is_false(world: World, left: np.ndarray, life: Life) -> bool:
    covered = left & (world.confidence >= life.threshold)
    return bool(covered.any() and world.agreement[covered].mean() < life.share - 1e-12)


def _coverage(world: World, left: np.ndarray, threshold: float | None) -> float:
    return 0.0 if threshold is None else float((world.confidence[left] >= threshold).mean())


# The posterior as source, through the real learner.

POSTERIOR_KINDS = {
    "posterior": (3.0, 0.0),
    "posterior-misled": (1.5, 1.5),
}


def posterior_world(rng: np.random.Generator, strength: float, misled: float) -> Document:
    """One world of the preference model: rounds, votes, and what a look certifies.

    Rewards are linear in the vectors with that strength; `misled` adds as much that no feature
    shows, shared by whole prompts' pairs. A strategy takes the pairs of which the posterior is
    least sure. People say a tie in a tenth of all votes.
    """
    from annotator.preference.learner import Learner
    from annotator.preference.votes import Votes
    from strategies.within_prompt import all_pairs
    from tests.synthetic_world import synthetic_features

    sizes = rng.integers(2, 7, 260)
    prompts = np.repeat(np.arange(len(sizes)), sizes)
    features = synthetic_features(rng, prompts, 8)
    reward = features.vectors.astype(np.float64) @ (strength * rng.standard_normal(8))
    reward += misled * rng.standard_normal(len(reward))
    a, b = all_pairs(prompts)
    for_a = 0.9 * expit(reward[a] - reward[b])
    roll = rng.random(len(a))
    grade = np.where(roll < for_a, 1, np.where(roll < 0.9, -1, 0))
    left = np.ones(len(a), dtype=bool)
    control: list[int] = []
    drawn: list[int] = []
    taken: list[int] = []
    taken_in: list[int] = []
    posterior = None
    outcome: Document = {"broken": False, "ever": False, "coverage": {}}
    threshold = None
    for number in range(1, 9):
        new = rng.choice(np.flatnonzero(left), 50, replace=False)
        control += new.tolist()
        drawn += [number] * 50
        left[new] = False
        offered = np.flatnonzero(left)
        if posterior is None:
            chosen = rng.choice(offered, 50, replace=False)
        else:
            unsure = np.argsort(-posterior.error(a[offered], b[offered]))[:50]
            chosen = offered[unsure]
        taken += chosen.tolist()
        taken_in += [number] * 50
        left[chosen] = False
        if len(control) not in LOOKS:  # nothing is decided in between
            continue
        asked = np.array(control + taken)
        posterior = Learner(features).learn(Votes(a[asked], b[asked], grade[asked]))
        mean, variance = posterior.before_votes(a, b)
        grades = posterior.model.expected(mean, variance).grades
        sure = np.maximum(grades[:, : grades.shape[1] // 2].sum(axis=1),
                          grades[:, grades.shape[1] // 2 + 1 :].sum(axis=1))  # fmt: skip
        agrees = np.sign(mean) == grade
        truth = np.where(mean > 0, for_a, 0.9 - for_a)
        votes = Calibration(sure[control], agrees[control], np.array(drawn))
        gone = Taken(sure[taken], agrees[taken].astype(np.float64), np.array(taken_in))
        state = State(votes, prompts[a[control]], sure[left], gone, POSTERIOR_AGREE, 1)
        found = ours(state)
        if found is not None:
            threshold = found.threshold
            covered = left & (sure >= threshold)
            outcome["ever"] = True
            outcome["broken"] |= bool(truth[covered].mean() < POSTERIOR_AGREE)
            coverage = float((sure[left] >= threshold).mean())
        elif threshold is None:
            coverage = 0.0
        outcome["coverage"][str(len(control))] = coverage
    return outcome


POSTERIOR_AGREE = 0.75


# Running and storing.


def run_kind(kind: str, n_worlds: int) -> None:
    """Every way to decide in all worlds of a kind; stored when they are done."""
    started = time.perf_counter()
    if kind in POSTERIOR_KINDS:
        ways = {OURS: summary([*_posterior_lives(kind, n_worlds)])}
    else:
        names = (OURS, *RIVALS.get(kind, ()))
        ways = {name: summary([*_lives(kind, name, n_worlds)]) for name in names}
    document = {
        "kind": kind,
        "about": (KINDS[kind].__doc__ if kind in KINDS else POSTERIOR_WORDS[kind]).strip(),
        "worlds": n_worlds,
        "agree": POSTERIOR_AGREE if kind in POSTERIOR_KINDS else AGREE,
        "confidence": CONFIDENCE,
        "control_a_round": CONTROL,
        "annotator": __version__,
        "seed": SEED,
        "ways": ways,
    }
    STORED.mkdir(exist_ok=True)
    path = STORED / f"{kind}.{n_worlds}-worlds.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    seconds = time.perf_counter() - started
    broken = {name: f"{way['broken']}/{n_worlds}" for name, way in ways.items()}
    print(f"{kind}: {seconds:.0f} s", broken, ways[OURS]["coverage"], flush=True)


POSTERIOR_WORDS = {
    "posterior": "The preference model on its own features, tested through the real learner; the "
    "strategy takes the pairs of which it is least sure.",
    "posterior-misled": "The same where half of what makes a response better is in no feature.",
}


def _lives(kind: str, way: str, n_worlds: int) -> Iterator[Document]:
    for i in range(n_worlds):
        # The same world and votes for every way to decide.
        rng = np.random.default_rng([SEED, sorted(KINDS).index(kind), i])
        life = live(KINDS[kind](rng), rng, WAYS[way])
        yield {
            "broken": life.broken,
            "ever": life.ever,
            "false_at_end": life.false_at_end,
            "voided_true": life.voided_true,
            "coverage": {str(n): share for n, share in life.coverage.items()},
        }


def _posterior_lives(kind: str, n_worlds: int) -> Iterator[Document]:
    for i in range(n_worlds):
        rng = np.random.default_rng([SEED, 100 + sorted(POSTERIOR_KINDS).index(kind), i])
        yield posterior_world(rng, *POSTERIOR_KINDS[kind])


def summary(lives: list[Document]) -> Document:
    """Counts over worlds, and mean coverage at every mark."""
    marks = [str(n) for n in MARKS if all(str(n) in life["coverage"] for life in lives)]
    return {
        "broken": sum(life["broken"] for life in lives),
        "certified": sum(life["ever"] for life in lives),
        "false_at_end": sum(life.get("false_at_end", False) for life in lives),
        "voided_true": sum(life.get("voided_true", 0) for life in lives),
        "coverage": {
            n: round(float(np.mean([life["coverage"][n] for life in lives])), 4) for n in marks
        },
    }


def stored() -> list[Document]:
    """Every kind, in the order of this file."""
    order = [*KINDS, *POSTERIOR_KINDS]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in STORED.glob("*.json")]
    return sorted(found, key=lambda document: order.index(document["kind"]))


# The page.


def page(documents: list[Document]) -> str:
    """The page in Markdown."""
    reading = STORED / "reading.md"
    return "\n".join(
        [
            "# A promise about pairs that no person sees, kept or broken",
            "",
            _head(documents),
            "",
            *([reading.read_text(encoding="utf-8").strip(), ""] if reading.exists() else []),
            *_broken_table(documents),
            *_rival_table(documents),
            *_coverage_table(documents),
            *_kinds(documents),
        ]
    )


def _head(documents: list[Document]) -> str:
    worlds = sum(document["worlds"] for document in documents)
    return (
        "Generated by `scripts/routing_worlds.py --page-only` from `docs/routing/*.json`; not "
        f"edited by hand. {worlds:,} simulated worlds, in which it is known of every pair of the "
        "pool how often people would agree with the source. "
        f"Each round draws {CONTROL} control pairs uniformly and lets a strategy take as many; "
        "every pair gets one vote; after every round the source is tested. A world is *broken* if "
        "any certificate that it ever gave was false when given: of all pairs that it covers "
        "people agree on fewer than was promised. Intervals are 95 %, Clopper and Pearson's."
    )


def _broken_table(documents: list[Document]) -> list[str]:
    lines = [
        "## Broken promises",
        "",
        "| world | promised: at least | broken at most | broken | of worlds | 95 % | certified "
        "in | false at the end | true ones ended |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for document in documents:
        way, n = document["ways"][OURS], document["worlds"]
        delta = 1.0 - document["confidence"]
        low, high = interval(way["broken"], n)
        mark = "" if low <= delta else " **more than promised**"
        lines.append(
            f"| {document['kind']} | {document['agree']:.0%} | {delta:.0%} | "
            f"{way['broken'] / n:.1%}{mark} | {way['broken']:,} of {n:,} | "
            f"{low:.1%} to {high:.1%} | {way['certified'] / n:.0%} | "
            f"{way['false_at_end'] / n:.1%} | {way['voided_true'] / n:.2f} |"
        )
    return [*lines, ""]


def _rival_table(documents: list[Document]) -> list[str]:
    """What other ways to decide break, on the same votes."""
    with_rivals = [document for document in documents if len(document["ways"]) > 1]
    if not with_rivals:
        return []
    names = [name for name in WAYS if any(name in document["ways"] for document in with_rivals)]
    lines = [
        "## The same votes, decided otherwise",
        "",
        "Worlds with a broken promise; bold where the whole interval is above what was promised, "
        "empty where it was not tried.",
        "",
        "| world | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for document in with_rivals:
        cells = [_broken_cell(document, name) for name in names]
        lines.append(f"| {document['kind']} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- *{name}*: {_first_line(WAYS[name])}" for name in names)]
    return [*lines, ""]


def _broken_cell(document: Document, name: str) -> str:
    if name not in document["ways"]:
        return ""
    n, broken = document["worlds"], document["ways"][name]["broken"]
    text = f"{broken / n:.1%}"
    return f"**{text}**" if interval(broken, n)[0] > 1.0 - document["confidence"] else text


def _coverage_table(documents: list[Document]) -> list[str]:
    lines = [
        "## Coverage by control votes",
        "",
        "Mean share of the pool that needs no person, worlds without a certificate counting 0.",
        "",
        "| world | " + " | ".join(f"{n:,}" for n in MARKS) + " |",
        "|---" * (len(MARKS) + 1) + "|",
    ]
    for document in documents:
        coverage = document["ways"][OURS]["coverage"]
        cells = [f"{coverage[str(n)]:.2f}" if str(n) in coverage else "" for n in MARKS]
        lines.append(f"| {document['kind']} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _kinds(documents: list[Document]) -> list[str]:
    lines = ["## The worlds", ""]
    for document in documents:
        lines.append(f"- **{document['kind']}**: {' '.join(document['about'].split())}")
    return [*lines, ""]


def _first_line(function: Callable[..., object]) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


def interval(hits: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval."""
    low = float(beta_distribution.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    high = float(beta_distribution.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


if __name__ == "__main__":
    main()
