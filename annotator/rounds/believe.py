"""`believe`: from the votes to what is believed of pairs and people, kept until a vote changes it.

Pairs whose responses have vectors are seen by the preference model and by the crowd together: what
other pairs say of a pair is its prior. Of pairs without vectors, as gold has them, and of too many
responses for that, votes speak alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.candidates.gold import GOLD_ONLY_RESPONSES, GOLD_UNKNOWN, gold_answers
from annotator.labels.consensus import verdicts
from annotator.labels.consensus_store import (
    Build,
    PairBeliefs,
    newest_build,
    newest_vote,
    store_build,
)
from annotator.labels.votes import CountedVotes, counted_votes
from annotator.progress import progress_bar
from annotator.rounds.features import features_of
from annotator.signals.embeddings import have_vectors, response_vectors
from annotator.signals.scores import scores_by, told_method
from annotator.store import writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlite_utils import Database

    from annotator.labels.crowd import Crowd
    from annotator.preference.features import ResponseFeatures
    from annotator.preference.posterior import Posterior
    from strategies.within_prompt import Floats

    Ids = NDArray[np.int64]

VERSION = 1  # what a stored build was computed by; raise it when results change
AHEAD = 3  # votes that a gain looks ahead: one alone often cannot turn a pair, three can
LIMIT_RESPONSES = 100_000  # of prompts with votes: of more a joint fit takes minutes and gigabytes


@dataclass(frozen=True, eq=False)
class Belief:
    """What is believed after the votes: of the pairs a_ids, b_ids (n_pairs,), in the crowd's order.

    `posterior` of the responses `response_ids`, ascending; None where votes speak alone.
    """

    a_ids: Ids
    b_ids: Ids
    annotator_ids: Ids
    crowd: Crowd
    response_ids: Ids
    posterior: Posterior | None
    told: str | None

    def beliefs(self) -> PairBeliefs:
        """The same as it is stored."""
        crowd = self.crowd
        return PairBeliefs(
            self.a_ids,
            self.b_ids,
            crowd.n_votes,
            crowd.preferred,
            crowd.tie,
            crowd.gain(ahead=AHEAD),
            verdicts(crowd.preferred, crowd.tie),
        )


def ensure_consensus(db: Database, database_path: Path, encoder_id: int | None) -> Build | None:
    """The newest build, made anew where votes, gold or scores have changed since; None before
    the first vote.

    With an encoder by the preference model as well. Raises PreferenceError.
    """
    last = newest_vote(db)
    known = newest_build(db)
    asked = {"version": VERSION, "told": told_method(db), "gold": _n_gold(db)}
    if known and (known.last_vote_id, known.encoder_id) == (last, encoder_id):
        same = {name: known.settings.get(name) for name in asked} == asked
        if same:
            return known
    with progress_bar(None, "consensus", "fits") as advance:
        belief = believe(db, database_path, encoder_id)
        advance(1)
    if belief is None:
        return None
    with writing(db):
        store_build(
            db,
            belief.beliefs(),
            belief.crowd.people,
            belief.annotator_ids,
            last_vote_id=last,
            encoder_id=encoder_id,
            settings=asked | _settings(belief),
        )
    return newest_build(db)


def current_consensus(db: Database, database_path: Path) -> Build | None:
    """The newest build as ensure_consensus gives it, by the encoder of the newest round."""
    row = db.execute(
        "SELECT encoder_id FROM rounds WHERE encoder_id IS NOT NULL ORDER BY id DESC LIMIT 1"
    ).fetchone()
    return ensure_consensus(db, database_path, row[0] if row else None)


def _n_gold(db: Database) -> int:
    return int(db.execute("SELECT count(*) FROM gold").fetchone()[0])


def _settings(belief: Belief) -> dict[str, Any]:
    model = belief.crowd.model
    return {
        "from": "votes" if belief.posterior is None else "votes and the preference model",
        "tie": model.tie,
        "much": model.much,
        "lapse": belief.crowd.people.typical_lapse,
    }


def believe(
    db: Database, database_path: Path, encoder_id: int | None, also: Ids | None = None
) -> Belief | None:
    """What is believed of every pair with a vote; None without votes.

    The posterior knows the prompts of the responses `also` as well, voted on or not.
    """
    import numpy as np

    from annotator.labels.crowd import CrowdVotes, fit_crowd
    from annotator.labels.joint_fit import fit_jointly
    from annotator.preference.laplace import places_of
    from annotator.preference.learner import Learner

    votes = counted_votes(db)
    if not len(votes):
        return None
    a_ids, b_ids, pair = _pairs(votes)
    annotator_ids, annotator = np.unique(votes.annotator_ids, return_inverse=True)
    left_is_a, grade = votes.left_is_a, votes.grade
    cast = CrowdVotes(pair, grade, annotator, left_is_a, len(a_ids), len(annotator_ids))
    gold = gold_answers(db, a_ids, b_ids)
    ends = np.concatenate((a_ids, b_ids))
    features, response_ids, told = features_around(
        db, database_path, encoder_id, ends if also is None else np.concatenate((ends, also))
    )
    if features is None:
        crowd, posterior = fit_crowd(cast, gold=gold), None
    else:
        # Votes on gold tell of people; as in rounds, nothing is learned of candidates from them.
        asked = gold == GOLD_UNKNOWN
        a, b = (np.where(asked, places_of(ids, response_ids), -1) for ids in (a_ids, b_ids))
        posterior, crowd = fit_jointly(Learner(features), a, b, cast, gold)
    return Belief(a_ids, b_ids, annotator_ids, crowd, response_ids, posterior, told)


def _pairs(votes: CountedVotes) -> tuple[Ids, Ids, Ids]:
    """The distinct pairs, and which of them each vote is on."""
    import numpy as np

    pairs, pair = np.unique(
        np.stack((votes.a_ids, votes.b_ids), axis=1), axis=0, return_inverse=True
    )
    return pairs[:, 0].copy(), pairs[:, 1].copy(), pair.ravel()


def features_around(
    db: Database, database_path: Path, encoder_id: int | None, wanted: Ids
) -> tuple[ResponseFeatures | None, Ids, str | None]:
    """Features of all responses to the prompts of those wanted, their ids, and who judged them.

    Prompts where a response has no vector are left out; None where nothing or too much is left.
    """
    import numpy as np

    nobody = np.empty(0, dtype=np.int64)
    if encoder_id is None:
        return None, nobody, None
    response_ids, prompt_ids = _whole_prompts(db, wanted)
    there = have_vectors(db, encoder_id, response_ids)
    whole = ~np.isin(prompt_ids, prompt_ids[~there])
    response_ids, prompt_ids = response_ids[whole], prompt_ids[whole]
    if not 0 < len(response_ids) <= LIMIT_RESPONSES:
        return None, nobody, None
    prompts, prompt_of_response = np.unique(prompt_ids, return_inverse=True)
    told = told_method(db)
    judged: Floats | None = None if told is None else scores_by(db, told, response_ids)[:, None]
    vectors = response_vectors(db, database_path, encoder_id, response_ids)
    features = features_of(
        db,
        database_path,
        encoder_id,
        response_ids,
        prompts,
        vectors,
        prompt_of_response.astype(np.int64),
        judged,
    )
    return features, response_ids, told


def _whole_prompts(db: Database, wanted: Ids) -> tuple[Ids, Ids]:
    """Ids of all candidates that answer the prompts of these, by prompt, and of their prompts."""
    import json

    import numpy as np

    rows = db.execute(
        f"""SELECT r.id, r.prompt_id FROM responses r WHERE r.prompt_id IN (
            SELECT prompt_id FROM responses WHERE id IN (SELECT value FROM json_each(?)))
        AND r.id NOT IN ({GOLD_ONLY_RESPONSES}) ORDER BY r.prompt_id, r.response_key""",  # noqa: S608
        [json.dumps(np.unique(wanted).tolist())],
    ).fetchall()
    table = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


def new_pair_gains(
    db: Database, database_path: Path, encoder_id: int | None, a_ids: Ids, b_ids: Ids
) -> Floats:
    """What a first vote on each of these pairs is expected to take off its error, (n,).

    Before the first vote, and where the preference model cannot see them, a pair may be anything:
    the gain is that of a pair of which nothing is known.
    """
    import numpy as np

    from annotator.labels.crowd import gain_of_vote
    from annotator.preference.laplace import places_of
    from annotator.preference.tuning import Setting

    belief = believe(db, database_path, encoder_id, also=np.concatenate((a_ids, b_ids)))
    if belief is None or belief.posterior is None:
        setting = Setting()
        model = setting.model if belief is None else belief.crowd.model
        lapse = model.lapse if belief is None else belief.crowd.people.typical_lapse
        wide = 2.0 * setting.prior.own + setting.prior.pair
        if belief is not None:
            wide = float(belief.crowd.prior.variance.max())
        anything = np.full(len(a_ids), wide)
        return gain_of_vote(np.zeros(len(a_ids)), anything, model, lapse, AHEAD)
    a, b = (places_of(ids, belief.response_ids) for ids in (a_ids, b_ids))
    mean, variance = belief.posterior.before_votes(a, b)
    lapse = belief.crowd.people.typical_lapse
    return gain_of_vote(mean, variance, belief.posterior.model, lapse, AHEAD)
