"""What an account of the people is made of, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from annotator.labels.agreement import GradedVotes
from annotator.labels.consensus_store import Skill
from strategies.within_prompt import Bools, Floats, Positions

Document = dict[str, Any]
# Positions of pairs -> the texts of a and of b of each.
Texts = Callable[[Positions], tuple[Sequence[str], Sequence[str]]]


@dataclass(frozen=True)
class Person:
    """Somebody who answered; `votes` with those given again, `skill` None where none is known."""

    id: int
    name: str
    server: str
    votes: int
    skips: int
    skill: Skill | None


@dataclass(frozen=True, eq=False)
class Repeats:
    """What people said of a pair at first and later, (n_repeats,) grades, and who."""

    first: Positions
    later: Positions
    annotator: Positions


@dataclass(frozen=True, eq=False)
class GoldAnswers:
    """Grades that people gave where an answer is known, (n_answers,), that answer, and who."""

    grade: Positions
    gold: Positions
    annotator: Positions


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that the account measures.

    - `votes` that count, on all pairs; `left_is_a`, `seconds` (NaN unknown) of each, (n_votes,).
    - `early` (n_votes,): among the votes that were asked for before anybody had answered.
    - `asked` (n_pairs,): pairs that came in by choice or by lot, not to test people; `control`,
      of them by lot; `region` of the data map, its name `region_from`, None where there is no map.
    - `texts` gives texts of pairs.
    """

    people: list[Person]
    votes: GradedVotes
    left_is_a: Bools
    seconds: Floats
    early: Bools
    asked: Bools
    control: Bools
    gold: GoldAnswers
    repeats: Repeats
    texts: Texts
    region: Positions | None = None
    region_from: str | None = None
    skills_from: Document | None = None
