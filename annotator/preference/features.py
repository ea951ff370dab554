"""The fixed features of a response for its prompt, on scales that no label has touched.

Groups: the response's embedding; its product, entry by entry, with the prompt's embedding, so that
a weight can mean "this topic asks for that"; covariates of form and place, that is length and
format, the cosine with the prompt, and peer agreement, which the data map goes by where no judge
has spoken; which model wrote it, where candidates say so: a model that won elsewhere is likely to
win here; and what judges say of it, where any were asked: votes show how far to believe them. Only
differences between responses to one prompt ever matter, so every group is scaled such that the mean
squared difference of two responses to one prompt is 1: a prior variance then means the same for
every encoder and every data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from annotator.errors import PreferenceError
from strategies.within_prompt import Floats, Positions, Vectors, peer_agreement

GROUPS = ("response", "product", "form", "model", "judge")
COVARIATES = (
    "log characters", "log words", "line breaks", "commas", "full stops", "questions",
    "capitals", "word length",
)  # fmt: skip
MAX_MODELS = 256
BLOCK_ROWS = 8192


@dataclass(frozen=True, eq=False)
class ResponseFeatures:
    """Features of n responses, computed for those asked for.

    `vectors` (n, d) and `prompt_vectors` (n_prompts, d) may be memmaps; `form` (n, 10) covariates;
    `model` (n,) the number of the model that wrote each, of `n_models`, -1 where nobody knows;
    `judged` (n, n_judges) each judge's score, less the mean of its scores in the prompt; `scale` of
    each group.
    """

    vectors: Vectors
    prompt_vectors: Vectors
    prompt_of_response: Positions
    form: Vectors
    model: Positions
    n_models: int
    judged: Vectors
    scale: Mapping[str, float]

    @property
    def sizes(self) -> dict[str, int]:
        """How many features each group has."""
        d = self.vectors.shape[1]
        form = self.form.shape[1]
        return {
            "response": d,
            "product": d,
            "form": form,
            "model": self.n_models,
            "judge": self.n_judges,
        }

    @property
    def n_judges(self) -> int:
        """How many judges have scored these responses."""
        return self.judged.shape[1]

    def rows(self, positions: Positions) -> dict[str, Floats]:
        """The scaled features of these responses, by group (m, size)."""
        vectors = self.vectors[positions].astype(np.float64)
        form: Floats = self.form[positions].astype(np.float64)
        topic = self.prompt_vectors[self.prompt_of_response[positions]]
        return {
            "response": vectors * self.scale["response"],
            "product": vectors * topic * self.scale["product"],
            "form": form * self.scale["form"],
            "model": self._model_indicators(positions) * self.scale["model"],
            "judge": self.judged[positions].astype(np.float64) * self.scale["judge"],
        }

    def _model_indicators(self, positions: Positions) -> Floats:
        model = self.model[positions]
        known = np.flatnonzero(model >= 0)
        indicators = np.zeros((len(positions), self.n_models))
        indicators[known, model[known]] = 1.0
        return indicators

    @property
    def n_responses(self) -> int:
        """How many responses there are."""
        return len(self.prompt_of_response)


def response_features(
    vectors: Vectors,
    prompt_vectors: Vectors,
    prompt_of_response: Positions,
    form: Vectors,
    models: Sequence[str | None] = (),
    judged: Floats | None = None,
) -> ResponseFeatures:
    """The features of these responses, each group scaled by what it does within prompts.

    `vectors` (n, d) and `prompt_vectors` (n_prompts, d) of length 1, `form` (n, 8) covariates as
    form_covariates gives them, `models` who wrote each response, empty or None where nobody knows;
    of more than 256 models those that wrote most count; `judged` (n, n_judges) judges' scores, NaN
    where one gave none, which then counts as its mean in the prompt. Scales come from at most
    20,000 responses, spread evenly. Raises PreferenceError where a number is not finite or the
    shapes do not fit.
    """
    _check(vectors, prompt_vectors, prompt_of_response, form, models)
    scores = _scores_within_prompts(judged, prompt_of_response)
    form = np.column_stack((form, _place(vectors, prompt_vectors, prompt_of_response)))
    model, n_models = _model_numbers(models, prompt_of_response)
    unit = dict.fromkeys(GROUPS, 1.0)
    unscaled = ResponseFeatures(
        vectors, prompt_vectors, prompt_of_response, form, model, n_models, scores, unit
    )
    sample = _whole_prompts(prompt_of_response)
    prompts = prompt_of_response[sample]
    form = (form / _spread(form[sample].astype(np.float64), prompts)).astype(np.float32)
    groups = {**unscaled.rows(sample), "form": form[sample].astype(np.float64)}
    scale = {name: 1.0 / _typical_difference(group, prompts) for name, group in groups.items()}
    return ResponseFeatures(
        vectors, prompt_vectors, prompt_of_response, form, model, n_models, scores, scale
    )


def form_covariates(texts: Iterable[str]) -> Vectors:
    """Length and format of each text, (n, 8) float32, in the order of COVARIATES."""
    rows = [_form(text) for text in texts]
    return np.array(rows, dtype=np.float32).reshape(-1, len(COVARIATES))


def _form(text: str) -> list[float]:
    letters = np.bincount(
        np.frombuffer(text.encode("ascii", "ignore"), dtype=np.uint8), minlength=256
    )
    n, n_words = len(text), len(text.split())
    white = letters[[9, 10, 11, 12, 13, 32]].sum()
    per_word = letters[[10, ord(","), ord("."), ord("?"), ord("!")]] / (1 + n_words)
    return [
        np.log1p(n),
        np.log1p(n_words),
        per_word[0],
        per_word[1],
        per_word[2],
        per_word[3] + per_word[4],
        letters[ord("A") : ord("Z") + 1].sum() / (1 + n),
        (n - white) / max(1, n_words),
    ]


def _place(vectors: Vectors, prompt_vectors: Vectors, prompt_of_response: Positions) -> Vectors:
    """Cosine with the prompt and peer agreement of every response, (n, 2)."""
    place = np.zeros((len(vectors), 2), dtype=np.float32)
    for start in range(0, len(vectors), BLOCK_ROWS):
        at = slice(start, start + BLOCK_ROWS)
        place[at, 0] = np.vecdot(vectors[at], prompt_vectors[prompt_of_response[at]])
    if not np.isfinite(place).all():
        raise PreferenceError(
            f"the vector of response {np.argmin(np.isfinite(place[:, 0]))} holds NaN or infinity",
            expected="finite vectors",
            todo="check the embeddings with `annotator doctor`",
        )
    place[:, 1] = np.nan_to_num(peer_agreement(vectors, prompt_of_response))
    return place


def _scores_within_prompts(judged: Floats | None, prompt_of_response: Positions) -> Vectors:
    """Each judge's scores less their mean in the prompt, in deviations of that, (n, n_judges).

    0 where there is no score: no reason to put the response above or below the others.
    """
    n = len(prompt_of_response)
    if judged is None or not n:
        return np.zeros((n, 0), dtype=np.float32)
    if judged.ndim != 2 or len(judged) != n or np.isinf(judged).any():
        raise PreferenceError(
            f"judges' scores are of shape {judged.shape}, and {np.isinf(judged).sum()} infinite",
            expected=f"finite scores or NaN, a row for each of {n} responses",
        )
    known = np.isfinite(judged)
    totals = np.zeros((2, int(prompt_of_response.max()) + 1, judged.shape[1]))
    np.add.at(totals[0], prompt_of_response, np.where(known, judged, 0.0))
    np.add.at(totals[1], prompt_of_response, known)
    mean = totals[0] / np.maximum(totals[1], 1.0)
    centred = np.where(known, judged - mean[prompt_of_response], 0.0)
    deviation = np.sqrt((centred**2).sum(axis=0) / np.maximum(1, known.sum(axis=0)))
    scaled: Vectors = (centred / np.where(deviation > 1e-12, deviation, 1.0)).astype(np.float32)
    return scaled


def _model_numbers(
    models: Sequence[str | None], prompt_of_response: Positions
) -> tuple[Positions, int]:
    """A number for each response's model, -1 for none, and how many there are.

    A model that answered one prompt only says no more than the response itself, so it has none.
    """
    number = np.full(len(prompt_of_response), -1, dtype=np.int64)
    if not len(models):
        return number, 0
    prompts: dict[str, set[int]] = {}
    for name, prompt in zip(models, prompt_of_response.tolist(), strict=True):
        if name is not None:
            prompts.setdefault(name, set()).add(prompt)
    common = sorted((-len(of), name) for name, of in prompts.items() if len(of) > 1)[:MAX_MODELS]
    known = {name: i for i, (_, name) in enumerate(common)} if len(common) > 1 else {}
    number[:] = [known.get(name, -1) if name is not None else -1 for name in models]
    return number, len(known)


def _check(
    vectors: Vectors,
    prompt_vectors: Vectors,
    prompt_of_response: Positions,
    form: Vectors,
    models: Sequence[str | None],
) -> None:
    n, n_prompts = len(prompt_of_response), len(prompt_vectors)
    if len(vectors) != n or form.shape != (n, len(COVARIATES)):
        raise PreferenceError(
            f"there are {n} responses, vectors {vectors.shape} and covariates {form.shape}",
            expected=f"a row for each response, covariates of {len(COVARIATES)} columns",
        )
    if len(models) not in (0, n):
        raise PreferenceError(
            f"there are {n} responses and the models of {len(models)}",
            expected="a model for each response, None where nobody knows, or no models at all",
        )
    if n and not 0 <= prompt_of_response.min() <= prompt_of_response.max() < n_prompts:
        raise PreferenceError(
            f"responses answer the prompts {prompt_of_response.min()} to "
            f"{prompt_of_response.max()}",
            expected=f"positions of the {n_prompts} prompt vectors",
        )
    for name, array in (("covariates", form), ("prompt vectors", prompt_vectors)):
        if not np.isfinite(array).all():
            raise PreferenceError(f"the {name} hold NaN or infinity", expected="finite numbers")


def _whole_prompts(prompt_of_response: Positions, limit: int = 20_000) -> Positions:
    """Positions of the responses of evenly spread prompts, about `limit` of them at most."""
    n_prompts = int(prompt_of_response.max()) + 1 if len(prompt_of_response) else 0
    every = -(-len(prompt_of_response) // limit) if n_prompts else 1
    taken = np.zeros(n_prompts, dtype=np.bool_)
    taken[::every] = True
    return np.flatnonzero(taken[prompt_of_response])


def _centred(features: Floats, prompts: Positions) -> tuple[Floats, int]:
    """Features less the mean of their prompt, and how many degrees of freedom that leaves."""
    _, group, k = np.unique(prompts, return_inverse=True, return_counts=True)
    mean = np.zeros((len(k), features.shape[1]))
    np.add.at(mean, group, features)
    return features - (mean / k[:, None])[group], int((k - 1).sum())


def _spread(features: Floats, prompts: Positions) -> Floats:
    """Standard deviation of each feature within prompts; 1 where it never differs."""
    centred, freedom = _centred(features, prompts)
    deviation: Floats = np.sqrt((centred**2).sum(axis=0) / max(1, freedom))
    return np.where(deviation > 1e-9, deviation, 1.0)


def _typical_difference(features: Floats, prompts: Positions) -> float:
    """Root mean squared distance of two responses to one prompt; 1 if there is none."""
    centred, freedom = _centred(features, prompts)
    squared = 2.0 * float((centred**2).sum()) / max(1, freedom)
    return float(np.sqrt(squared)) if squared > 1e-12 else 1.0
