"""Which of a project's pairs another annotator should see, after a diagnosis."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from annotator.candidates.catalog import response_keys
from annotator.candidates.identity import pair_key
from annotator.diagnose.account import LIKELY_WRONG, Diagnosis

if TYPE_CHECKING:
    from sqlite_utils import Database

OUTVOTED = 2  # others on the pair who say otherwise: then nobody need be asked


@dataclass(frozen=True)
class Suspects:
    """The picks to ask about again, most suspect first, and pairs that are left out, by why."""

    pick_ids: list[int]
    n_outvoted: int
    n_control: int
    n_unknown: int


def suspects_of(project_db: Database, db: Database, found: Diagnosis) -> Suspects:
    """The picks of `project_db` on which the likely wrong labels of `db` stand.

    `db` is the project's own or that of a labelled file; pairs are the same where their texts are.
    Left out: pairs on which others outvote the label already; picks of the control arm, whose
    number of votes nothing may depend on; pairs that the project never sent.
    """
    labels, related = found.labels, found.related
    suspect = found.of_class(LIKELY_WRONG)
    outvoted = related.opposite[suspect] - related.same[suspect] >= OUTVOTED
    kept = suspect[~outvoted]
    pairs = list(dict.fromkeys(labels.pair[kept].tolist()))
    sent = _picks(project_db, _keys(db, found, pairs))
    return Suspects(
        pick_ids=[pick_id for pick_id, arm in sent if arm == "acquired"],
        n_outvoted=len(np.unique(labels.pair[suspect[outvoted]])),
        n_control=sum(arm == "control" for _, arm in sent),
        n_unknown=len(pairs) - len(sent),
    )


def _keys(db: Database, found: Diagnosis, pairs: list[int]) -> list[str]:
    ids = found.labelled.response_ids
    ends = [(int(ids[found.labels.a[p]]), int(ids[found.labels.b[p]])) for p in pairs]
    keys = response_keys(db, {end for pair in ends for end in pair})
    return [pair_key(*sorted((keys[a], keys[b]))) for a, b in ends]


_PICKS = """SELECT p.pair_key, p.id, p.arm FROM json_each(?) wanted
    CROSS JOIN picks p ON p.pair_key = wanted.value
    WHERE p.arm IN ('acquired', 'control') ORDER BY wanted.key, p.id"""


def _picks(db: Database, keys: list[str]) -> list[tuple[int, str]]:
    """Id and arm of the pick of each of these pairs that was sent, in their order."""
    found: dict[str, tuple[int, str]] = {}
    for key, pick_id, arm in db.execute(_PICKS, [json.dumps(keys)]):
        found.setdefault(key, (pick_id, arm))
    return list(found.values())
