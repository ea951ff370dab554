"""The ranking: what class each label is of, why, and the whole as one JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from annotator.diagnose.labels_of import Labelled
from annotator.diagnose.methods import (
    MAP_METHODS,
    SURPRISE,
    VARIABILITY,
    Foretold,
    Labels,
    confidence,
    foretell,
    map_suspicion,
    members_of,
    variability,
)
from annotator.labels.consensus import CONFIDENT
from annotator.signals.judges.trust import FEWEST_PROMPTS, Estimate, by_prompt, ratios
from strategies.within_prompt import Bools, Floats, Positions

LIKELY_WRONG, CONTESTED, LOW_IMPACT = "likely wrong", "contested", "of low impact"
UNREMARKABLE = "unremarkable"
CLASSES = (LIKELY_WRONG, CONTESTED, LOW_IMPACT, UNREMARKABLE)
LISTS = ("ranked", LIKELY_WRONG, CONTESTED, LOW_IMPACT)  # of labels, in the document
ODDS = 3.0  # from which on evidence is called positive: Kass and Raftery, JASA 90 (1995)
FORETOLD = 0.95  # P(label) from which on it said what was known
DIGITS = 4

Document = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was found of the labels; `method` ranks them.

    - `members` (n_members, n_labels): P(the label's verdict) by the refits.
    - `right`: the share of labels that take a side which the rest foretells, with its interval.
    """

    labelled: Labelled
    method: str
    seed: int
    foretold: Foretold
    members: Floats
    right: Estimate

    @property
    def labels(self) -> Labels:
        """The labels, in the order of all arrays here."""
        return self.labelled.labels

    @property
    def works(self) -> bool:
        """Whether the rest foretells labels better than a coin: else no label looks wrong."""
        return self.right.low > 0.5

    @cached_property
    def confidence(self) -> Floats:
        """The members' mean P(the label's verdict), (n_labels,)."""
        return confidence(self.members)

    @cached_property
    def variability(self) -> Floats:
        """Its standard deviation between members, (n_labels,)."""
        return variability(self.members)

    @cached_property
    def log_odds(self) -> Floats:
        """Of the likeliest other verdict against each label's, from the rest, (n_labels,)."""
        return self.foretold.rest.log_odds(self.labels)

    def suspicion(self, method: str) -> Floats:
        """How suspect each label is by that method, (n_labels,); NaN where it cannot say."""
        if method in MAP_METHODS:
            prompts = self.labelled.features.prompt_of_response
            return map_suspicion(method, self.labels, self.labelled.score, prompts)
        if method == SURPRISE:
            return self.foretold.surprise(self.labels)
        return self.variability if method == VARIABILITY else -self.confidence

    @cached_property
    def suspicion_by_method(self) -> Floats:
        """How suspect each label is by the method that ranks them, (n_labels,)."""
        return self.suspicion(self.method)

    @cached_property
    def ranking(self) -> Positions:
        """The labels, most suspect by the method first; those it cannot judge last, (n_labels,)."""
        suspicion = self.suspicion_by_method
        return np.argsort(-np.where(np.isnan(suspicion), -np.inf, suspicion), kind="stable")

    @cached_property
    def related(self) -> Related:
        """What other labels on each label's pair, and on its two responses, say of it."""
        return related_to(self.labels, self.labelled.features.n_responses)

    @cached_property
    def contested(self) -> Bools:
        """Labels of pairs on which people split or, by all that is known, would, (n_labels,).

        Where a pair has several labels they must differ, and leave it open which response most
        people prefer, or leave few preferring it. Where it has one, both its responses must have
        labels on other pairs: else a pair would be contested because nothing is known of it.
        """
        labels, rest = self.labels, self.foretold.rest
        open_ = np.maximum(rest.preferred, 1.0 - rest.preferred) < CONFIDENT
        split = self._differ & (open_ | (rest.close_after > 0.5))
        one = labels.n_votes[labels.pair] == 1
        found: Bools = np.where(one, self.related.on_both & (rest.close > 0.5), split[labels.pair])
        return found

    @cached_property
    def _differ(self) -> Bools:
        """Pairs whose labels are not all the same, (n_pairs,)."""
        labels = self.labels
        of_side = [
            np.bincount(labels.pair[labels.side == s], minlength=labels.n_pairs) for s in (-1, 0, 1)
        ]
        found: Bools = np.max(of_side, axis=0) < labels.n_votes
        return found

    @cached_property
    def classes(self) -> Positions:
        """The class of each label, positions in CLASSES, (n_labels,)."""
        wrong = self.works & (self.log_odds >= np.log(ODDS))
        known = (self.foretold.rest.probability(self.labels) >= FORETOLD) & (
            self.confidence >= FORETOLD
        )
        chosen = np.select([self.contested, wrong, known], [1, 0, 2], 3)
        return chosen.astype(np.int64)

    def class_of(self, place: int) -> str:
        """The class of one label."""
        return CLASSES[self.classes[place]]

    def of_class(self, name: str) -> Positions:
        """The labels of a class as they should be looked at, (n,).

        Likely wrong ones in the order of the ranking; contested ones pair by pair, the pair whose
        people split most evenly first; of low impact the best foretold first.
        """
        inside = self.classes == CLASSES.index(name)
        if name == CONTESTED:
            pair = self.labels.pair
            rest = self.foretold.rest
            unsure = 0.5 - np.abs(rest.preferred - 0.5)
            order = np.lexsort((pair, -unsure[pair]))
        elif name == LOW_IMPACT:
            order = np.argsort(self.log_odds, kind="stable")
        else:
            order = self.ranking
        found: Positions = order[inside[order]]
        return found


@dataclass(frozen=True, eq=False)
class Related:
    """Other labels that speak of a label's pair, (n_labels,) each.

    - `same`, `opposite`, `tied`: others on the same pair, by their verdict against this one's. Of a
      tie `same` are ties, and `opposite` all others.
    - `speak_for`, `against`: labels that put one of the two responses above or below a third; 0
      where the label is a tie.
    - `on_both`: whether both responses have labels on other pairs.
    """

    same: Positions
    opposite: Positions
    tied: Positions
    speak_for: Positions
    against: Positions
    on_both: Bools


def related_to(labels: Labels, n_responses: int) -> Related:
    """What other labels say of each label."""
    pair, side = labels.pair, labels.side
    n_pairs = labels.n_pairs
    for_a, for_b, ties = (
        np.bincount(pair[side == s], minlength=n_pairs).astype(np.int64) for s in (1, -1, 0)
    )
    wins, losses, n = (np.zeros(n_responses, dtype=np.int64) for _ in range(3))
    for end, won, lost in ((labels.a, for_a, for_b), (labels.b, for_b, for_a)):
        np.add.at(wins, end, won)
        np.add.at(losses, end, lost)
        np.add.at(n, end, labels.n_votes)
    for_first = wins[labels.a] - for_a + losses[labels.b] - for_a
    for_second = wins[labels.b] - for_b + losses[labels.a] - for_b
    here = (for_b[pair], ties[pair], for_a[pair])
    same = np.choose(side + 1, here) - 1
    others = labels.n_votes[pair] - 1
    tied = np.where(side == 0, 0, here[1])
    zero = np.zeros_like(pair)
    return Related(
        same=same,
        opposite=others - same - tied,
        tied=tied,
        speak_for=np.choose(side + 1, (for_second[pair], zero, for_first[pair])),
        against=np.choose(side + 1, (for_first[pair], zero, for_second[pair])),
        on_both=((n[labels.a] > labels.n_votes) & (n[labels.b] > labels.n_votes))[pair],
    )


def diagnose(labelled: Labelled, method: str = SURPRISE, seed: int = 0) -> Diagnosis:
    """Every label held against everything else. The same labels and seed find the same.

    Raises PreferenceError as the learner does.
    """
    rng = np.random.default_rng(seed)
    labels = labelled.labels
    foretold = foretell(labelled.features, labels)
    members = members_of(foretold, labels, rng)
    right = share_foretold(foretold, labelled, rng)
    return Diagnosis(labelled, method, seed, foretold, members, right)


def share_foretold(foretold: Foretold, labelled: Labelled, rng: np.random.Generator) -> Estimate:
    """The share of labels that take a side which the rest foretells; ties of both left out."""
    labels, sides = labelled.labels, foretold.rest.sides
    lead = sides[:, 2] - sides[:, 0]
    counted = labels.side != 0
    right = counted * (0.5 + 0.5 * np.sign(lead) * labels.side)
    prompt = labelled.prompt_of_pair[labels.pair]
    n_prompts = int(prompt.max()) + 1
    parts = by_prompt(np.stack((right, counted.astype(np.float64))), prompt, n_prompts)
    return ratios(parts[:1], parts[1:], rng)[0]


# The document.


def document(found: Diagnosis, top: int) -> Document:
    """The whole diagnosis but for texts; of each class the `top` labels, contested ones by pair."""
    labels, labelled = found.labels, found.labelled
    counts = np.bincount(found.classes, minlength=len(CLASSES)).tolist()
    return {
        "source": labelled.source,
        "method": found.method,
        "scores": labelled.scores,
        "seed": found.seed,
        "labels": len(labels),
        "pairs": labels.n_pairs,
        "prompts": len(np.unique(labelled.prompt_of_pair)),
        "annotators": sum(name is not None for name in labelled.annotators),
        "foretold": {
            "share": _rounded(found.right.value),
            "low": _rounded(found.right.low),
            "high": _rounded(found.right.high),
            "labels": int(found.right.n),
            "prompts": found.right.prompts,
            "works": bool(found.works),
        },
        "classes": dict(zip(CLASSES, counts, strict=True)),
        "contested_pairs": len(np.unique(labels.pair[found.contested])),
        "notes": _notes(found),
        "ranked": [row(found, i) for i in found.ranking[:top].tolist()],
        **{name: [row(found, i) for i in places(found, name, top)] for name in CLASSES[:3]},
    }


def _notes(found: Diagnosis) -> list[str]:
    """What a reader of the ranking would else get wrong."""
    notes = []
    suspicion = found.suspicion_by_method
    unknown = int(np.count_nonzero(np.isnan(suspicion)))
    if unknown:
        notes.append(f"{unknown:,} labels cannot be judged by {found.method}; they are ranked last")
    known = suspicion[~np.isnan(suspicion)]
    if len(known) and np.ptp(known) == 0.0:
        notes.append(f"{found.method} says the same of every label: its order means nothing")
    n_prompts = found.right.prompts
    if n_prompts < FEWEST_PROMPTS:
        notes.append(
            f"the labels are on {n_prompts} prompt{'' if n_prompts == 1 else 's'}: intervals from "
            f"fewer than {FEWEST_PROMPTS} are too narrow"
        )
    return notes


def places(found: Diagnosis, name: str, top: int) -> list[int]:
    """The first `top` labels of a class; of contested ones one label of each pair."""
    of_class = found.of_class(name)
    if name == CONTESTED:
        _, first = np.unique(found.labels.pair[of_class], return_index=True)
        of_class = of_class[np.sort(first)]
    return [int(place) for place in of_class[:top]]


def all_rows(found: Diagnosis) -> Iterator[Document]:
    """Every label, most suspect first, as `row` has it."""
    for rank, place in enumerate(found.ranking.tolist(), start=1):
        yield {"rank": rank, **row(found, place)}


def row(found: Diagnosis, place: int) -> Document:
    """One label: who said what of which responses, how suspect it is, and why."""
    labelled, labels = found.labelled, found.labels
    pair = labels.pair[place]
    a, b = labels.a[pair], labels.b[pair]
    sides = found.foretold.rest.sides[place]
    return {
        "label_id": int(labelled.label_ids[place]),
        "a_id": int(labelled.response_ids[a]),
        "b_id": int(labelled.response_ids[b]),
        "label": ("b", "tie", "a")[labels.side[place] + 1],
        "annotator": labelled.annotators[labels.annotator[place]],
        "class": found.class_of(place),
        "reason": reason(found, place),
        "suspicion": _rounded(found.suspicion_by_method[place]),
        "expected": dict(zip(("b", "tie", "a"), map(_rounded, sides.tolist()), strict=True)),
        "confidence": _rounded(found.confidence[place]),
        "variability": _rounded(found.variability[place]),
        "scores": {"a": _rounded(labelled.score[a]), "b": _rounded(labelled.score[b])},
        "votes": _votes(found, int(pair)),
    }


def _votes(found: Diagnosis, pair: int) -> dict[str, int]:
    """How many labels of each verdict the pair has."""
    first, last = np.searchsorted(found.labels.pair, [pair, pair + 1])
    side = found.labels.side[first:last]
    return {name: int((side == s).sum()) for name, s in (("a", 1), ("tie", 0), ("b", -1))}


def reason(found: Diagnosis, place: int) -> str:
    """Why the label is where it is, in words with numbers."""
    parts = (_by_people, _by_neighbours, _by_model, _by_scores)
    said = [words for part in parts if (words := part(found, place))]
    return "; ".join(said)


def _by_people(found: Diagnosis, place: int) -> str:
    """The other labels on the same pair."""
    related = found.related
    same, opposite, tied = (
        int(count[place]) for count in (related.same, related.opposite, related.tied)
    )
    others = same + opposite + tied
    if not others:
        return ""
    if same == others:
        return (
            "the only other vote on this pair agrees"
            if others == 1
            else (f"all {others} other votes on this pair agree")
        )
    votes = "vote" if others == 1 else "votes"
    verbs = ("takes", "prefers") if opposite == 1 else ("take", "prefer")
    side = found.labels.side[place]
    what = f"{verbs[0]} a side" if side == 0 else f"{verbs[1]} the other response"
    ties = f", {tied} {'is a tie' if tied == 1 else 'are ties'}" if tied else ""
    return f"{opposite} of {others} other {votes} on this pair {what}{ties}"


def _by_neighbours(found: Diagnosis, place: int) -> str:
    """The labels that set its two responses against others."""
    n_for, against = int(found.related.speak_for[place]), int(found.related.against[place])
    of = n_for + against
    if not of:
        return ""
    if of == 1:
        how = "speaks against it" if against else "speaks for it"
        return f"the one comparison of its responses with others {how}"
    if against in (0, of):
        how = "against" if against else "for"
        return f"all {of} comparisons of its responses with others speak {how} it"
    return f"{against} of {of} comparisons of its responses with others speak against it"


def _by_model(found: Diagnosis, place: int) -> str:
    """Everything else taken together."""
    labels = found.labels
    sides = found.foretold.rest.sides[place]
    side = int(labels.side[place])
    if found.class_of(place) == CONTESTED:
        return _of_contested(found, place)
    members = found.members[:, place]
    low, high = _percent(members.min()), _percent(members.max())
    refits = f" (refits {low} to {high})" if low != high else ""
    share = f"{_percent(sides[side + 1])}{refits}"
    if found.log_odds[place] <= 0.0:
        return f"everything else foretells this verdict with {share}"
    other = int(np.argmax(np.where(np.arange(3) == side + 1, -1.0, sides)))
    verdict = "a tie" if other == 1 else "a side" if side == 0 else "the other response"
    return f"everything else gives this verdict {share}, and {verdict} {_percent(sides[other])}"


def _of_contested(found: Diagnosis, place: int) -> str:
    """What is believed of a contested pair, its own labels counted where it has several."""
    pair, rest = found.labels.pair[place], found.foretold.rest
    several = found.labels.n_votes[pair] > 1
    close = rest.close_after[pair] if several else rest.close[place]
    if close > 0.5:
        return f"{_percent(close)} that of those who take a side fewer than two in three agree"
    preferred = rest.preferred[pair]
    name, share = ("a", preferred) if preferred >= 0.5 else ("b", 1.0 - preferred)
    return f"all of it together: {_percent(share)} that most prefer {name}"


def _percent(share: float) -> str:
    """A share in words that never says certain."""
    percent = 100.0 * float(share)
    if 0.0 < percent < 1.0:
        return "under 1 %"
    return "over 99 %" if 99.0 < percent < 100.0 else f"{percent:.0f} %"


def _by_scores(found: Diagnosis, place: int) -> str:
    """What a judge scored the two; peer agreement is no judge and says nothing here."""
    labels, score = found.labels, found.labelled.score
    pair, side = labels.pair[place], labels.side[place]
    preferred, other = labels.a[pair], labels.b[pair]
    if side < 0:
        preferred, other = other, preferred
    mine, its = float(score[preferred]), float(score[other])
    if not found.labelled.judged or np.isnan(mine) or np.isnan(its):
        return ""
    if side == 0:
        return f"the judge scores them {mine:.3g} and {its:.3g}"
    return f"the judge scores the preferred response {mine:.3g} against {its:.3g}"


def _rounded(value: float) -> float | None:
    return round(float(value), DIGITS) if np.isfinite(value) else None
