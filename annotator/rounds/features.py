"""From the database to the features that the preference model knows responses by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from annotator.candidates.catalog import texts_and_models
from annotator.signals.embeddings import prompt_vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlite_utils import Database

    from annotator.preference.features import ResponseFeatures
    from strategies.within_prompt import Floats, Positions, Vectors


def features_of(
    db: Database,
    database_path: Path,
    encoder_id: int,
    response_ids: NDArray[np.int64],
    prompt_ids: NDArray[np.int64],
    vectors: Vectors,
    prompt_of_response: Positions,
    judged: Floats | None = None,
) -> ResponseFeatures:
    """The features of these responses (n,), whose vectors (n, d) the caller has read.

    `prompt_of_response` (n,) positions in `prompt_ids` (n_prompts,), `judged` (n, n_judges) what
    judges say of them, NaN where nothing. Raises EncoderError if a
    prompt has no vector, PreferenceError where a number is not finite.
    """
    from annotator.preference.features import form_covariates, response_features

    texts, models = texts_and_models(db, response_ids.tolist())
    return response_features(
        vectors,
        prompt_vectors(db, database_path, encoder_id, prompt_ids),
        prompt_of_response,
        form_covariates(texts),
        models,
        judged,
    )
