"""What a strategy is given and what it gives back.

A strategy is a function `(pool, n, rng) -> Selection`. It speaks in positions of the pool's pairs
and in nothing else: pair keys, prompts' texts and databases are the caller's business. What it
cannot do it says with an error of the family below.

StrategyError                      base; has found, expected and todo
├── BadPool                        the arrays contradict each other or hold no usable vectors
├── MissingSignal                  the strategy ranks by arrays that this pool does not have
├── BadBatchSize                   asked for fewer than one pair
├── PoolTooSmall                   asked for more pairs than are eligible
├── StrategyViolation              a strategy broke the contract
├── UnknownStrategy                no strategy has that name
└── BadPlugin                      another distribution's strategy cannot be used
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.within_prompt import BLOCK_BYTES, Bools, Floats, Positions, Vectors, all_pairs

LENGTH_TOLERANCE = 1e-3


class StrategyError(Exception):
    """A strategy cannot do what was asked, in words that a person can act on.

    `found` says what is the case, `expected` what should have been, `todo` what to do next.
    """

    def __init__(self, found: str, *, expected: str = "", todo: str = "") -> None:
        super().__init__(found)
        self.found = found
        self.expected = expected
        self.todo = todo

    def __str__(self) -> str:
        lines = [self.found]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        if self.todo:
            lines.append(f"to do: {self.todo}")
        return "\n".join(lines)


class BadPool(StrategyError):
    """The arrays of a pool contradict each other or hold no usable vectors."""


class MissingSignal(StrategyError):
    """The strategy ranks by arrays that this pool does not have."""


class BadBatchSize(StrategyError):
    """The number of pairs asked for is not a whole number of at least one."""


class PoolTooSmall(StrategyError):
    """More pairs were asked for than are eligible; `asked` and `eligible` hold the numbers."""

    def __init__(self, *, asked: int, eligible: int) -> None:
        super().__init__(
            f"{asked} pairs were asked for, and {eligible} are eligible",
            expected="at most as many as are eligible",
            todo="ask for fewer, or import more candidates",
        )
        self.asked = asked
        self.eligible = eligible


class StrategyViolation(StrategyError):
    """A strategy gave back something that the contract does not allow."""


class UnknownStrategy(StrategyError):
    """No strategy has that name."""


class BadPlugin(StrategyError):
    """A strategy that another distribution offers cannot be used."""


def _layout(dtype: type[np.generic], *axes: str, signal: str = "") -> dict[str, Any]:
    """How a field of Pool is checked: its dtype, what each axis counts, whose signal it is."""
    return {"dtype": np.dtype(dtype), "axes": axes, "signal": signal}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """The pairs that a batch may be chosen from, as arrays that nobody can write to.

    - `response_vectors` (n_responses, d) float32, each of length 1; may be a memmap.
    - `prompt_of_response` (n_responses,) the position of the prompt that each response answers.
      The responses of a prompt need not stand together.
    - `pair_a`, `pair_b` (n_pairs,) positions of the two responses of each pair, both to the same
      prompt. No pair stands twice, in either order.
    - `pair_eligible` (n_pairs,) False where the pair was picked before: it stays in the pool,
      because what was picked says what is left to learn, but cannot be chosen again.

    Of the signal `scores`, there when a judge or the responses' own agreement has scored them:

    - `response_score` (n_responses,) what a machine thinks of each response, high = good. Scores
      of different prompts are on one scale; NaN where there is none.

    Of the signal `posterior`, there when the preference model has been fitted, be it to no vote.
    The model's rewards r have the joint normal distribution with

    - `reward_mean` (n_responses,) as mean, and as covariance of r_i and r_j the dot product of
      their rows of `reward_loadings` (n_responses, factors) plus, for responses to the same
      prompt alone, that of their rows of `residual_loadings` (n_responses, residual factors).
    - `pair_margin` (n_pairs,) the mean and `pair_variance` (n_pairs,) the variance of what votes on
      the pair are about: its reward difference and a term of the pair's own. The difference
      r_a - r_b enters with the factor `pair_share` (n_pairs,), 1 for a pair without votes, so that
      pair_variance = pair_share^2 Var(r_a - r_b) + the variance of its own term.
    - `pair_preferred` (n_pairs,) the probability that an annotator who does not call it a tie
      prefers a; `pair_tie` (n_pairs,) the probability of a tie.
    - `pair_error` (n_pairs,) the probability that the pair's margin has the wrong sign.
    - `pair_information` (n_pairs,) nats that one vote on the pair tells of it.
    - `pair_fisher` (n_pairs,) expected Fisher information of one vote about it.
    - `pair_votes` (n_pairs,) votes that the pair has.

    Of the signal `policy`, there when a model that is being trained has been read out, or the
    reward head stands in for it:

    - `policy_margin` (n_pairs,) its implicit reward of a less that of b, and `validation_margin`
      (n_pairs,) the same after training on validation votes.
    - `policy_influence` (n_pairs,) the dot product of the gradient of the validation loss with
      that of `policy_margin`.

    The fields are read-only views of the arrays given; integers of another width are converted,
    vectors never, since that would copy them. Raises BadPool.
    """

    # A further array is a further field: its layout here, a default of None if it is optional.
    response_vectors: Vectors = field(metadata=_layout(np.float32, "responses", "dimensions"))
    prompt_of_response: Positions = field(metadata=_layout(np.int64, "responses"))
    pair_a: Positions = field(metadata=_layout(np.int64, "pairs"))
    pair_b: Positions = field(metadata=_layout(np.int64, "pairs"))
    pair_eligible: Bools = field(metadata=_layout(np.bool_, "pairs"))
    response_score: Floats | None = field(
        default=None, metadata=_layout(np.float64, "responses", signal="scores")
    )
    reward_mean: Floats | None = field(
        default=None, metadata=_layout(np.float64, "responses", signal="posterior")
    )
    reward_loadings: Vectors | None = field(
        default=None, metadata=_layout(np.float32, "responses", "factors", signal="posterior")
    )
    residual_loadings: Vectors | None = field(
        default=None,
        metadata=_layout(np.float32, "responses", "residual factors", signal="posterior"),
    )
    pair_margin: Floats | None = field(
        default=None, metadata=_layout(np.float64, "pairs", signal="posterior")
    )
    pair_variance: Floats | None = field(
        default=None, metadata=_layout(np.float64, "pairs", signal="posterior")
    )
    pair_share: Floats | None = field(
        default=None, metadata=_layout(np.float64, "pairs", signal="posterior")
    )
    pair_preferred: Floats | None = field(
        default=None, metadata=_layout(np.float64, "pairs", signal="posterior")
    )
    pair_tie: Floats | None = field(
        default=None, metadata=_layout(np.float64, "pairs", signal="posterior")
    )
    pair_error: Floats | None = field(
        default=None, metadata=_layout(np.float64, "pairs", signal="posterior")
    )
    pair_information: Floats | None = field(
        default=None, metadata=_layout(np.float64, "pairs", signal="posterior")
    )
    pair_fisher: Floats | None = field(
        default=None, metadata=_layout(np.float64, "pairs", signal="posterior")
    )
    pair_votes: Positions | None = field(
        default=None, metadata=_layout(np.int64, "pairs", signal="posterior")
    )
    policy_margin: Floats | None = field(
        default=None, metadata=_layout(np.float64, "pairs", signal="policy")
    )
    validation_margin: Floats | None = field(
        default=None, metadata=_layout(np.float64, "pairs", signal="policy")
    )
    policy_influence: Floats | None = field(
        default=None, metadata=_layout(np.float64, "pairs", signal="policy")
    )

    def __post_init__(self) -> None:
        sizes: dict[str, tuple[int, str]] = {}
        for spec in fields(self):
            given = getattr(self, spec.name)
            if given is None:
                continue
            array = _as_dtype(given, spec.metadata["dtype"], spec.name)
            _check_shape(array, spec.metadata["axes"], spec.name, sizes)
            object.__setattr__(self, spec.name, _read_only(array))
        _check_prompts(self.prompt_of_response)
        _check_pairs(self.pair_a, self.pair_b, self.prompt_of_response)
        _check_lengths(self.response_vectors)

    @classmethod
    def of_responses(
        cls, response_vectors: npt.NDArray[Any], prompt_of_response: npt.NDArray[Any]
    ) -> Pool:
        """The pool of all pairs within prompts, all eligible, sorted by prompt, then a, then b.

        `response_vectors` (n_responses, d) float32 of length 1, `prompt_of_response`
        (n_responses,). A prompt of one response makes no pair. Raises BadPool.
        """
        prompts = _as_dtype(prompt_of_response, np.dtype(np.int64), "prompt_of_response")
        _check_shape(prompts, ("responses",), "prompt_of_response", {})
        _check_prompts(prompts)
        pair_a, pair_b = all_pairs(prompts)
        return cls(
            response_vectors=response_vectors,
            prompt_of_response=prompts,
            pair_a=pair_a,
            pair_b=pair_b,
            pair_eligible=np.ones(len(pair_a), dtype=np.bool_),
        )

    def without(self, positions: Positions) -> Pool:
        """The same pool with these pairs no longer eligible; shares all other arrays.

        Raises BadPool if a position is not one of a pair.
        """
        _check_range(positions, self.n_pairs, "positions", of="pairs")
        eligible = self.pair_eligible.copy()
        eligible[positions] = False
        # Not dataclasses.replace: that would check all the vectors again.
        pool = copy.copy(self)
        object.__setattr__(pool, "pair_eligible", _read_only(eligible))
        return pool

    def with_signals(self, **arrays: npt.NDArray[Any]) -> Pool:
        """The same pool with these optional fields set; shares all other arrays.

        Raises BadPool if an array does not fit.
        """
        known = {spec.name: spec for spec in fields(self) if spec.metadata["signal"]}
        sizes = {
            "responses": (self.n_responses, "prompt_of_response"),
            "pairs": (self.n_pairs, "pair_a"),
        }
        # Not dataclasses.replace: that would check all the vectors again.
        pool = copy.copy(self)
        for name, given in arrays.items():
            if name not in known:
                raise BadPool(f"{name} is no signal", expected=f"one of {', '.join(known)}")
            array = _as_dtype(given, known[name].metadata["dtype"], name)
            _check_shape(array, known[name].metadata["axes"], name, sizes)
            object.__setattr__(pool, name, _read_only(array))
        return pool

    def of_prompts(self, chosen: Bools) -> PoolPart:
        """The responses and pairs of the chosen prompts alone; `chosen` (n_prompts,)."""
        prompts = np.flatnonzero(chosen)
        responses = np.flatnonzero(chosen[self.prompt_of_response])
        pairs = np.flatnonzero(chosen[self.prompt_of_pair])
        prompt, response = np.zeros(self.n_prompts, np.int64), np.zeros(self.n_responses, np.int64)
        prompt[prompts] = np.arange(len(prompts))
        response[responses] = np.arange(len(responses))
        arrays: dict[str, npt.NDArray[Any]] = {}
        for spec in fields(self):
            if (array := getattr(self, spec.name)) is not None:
                arrays[spec.name] = array[
                    pairs if spec.metadata["axes"][0] == "pairs" else responses
                ]
        arrays["prompt_of_response"] = prompt[arrays["prompt_of_response"]]
        arrays["pair_a"], arrays["pair_b"] = response[arrays["pair_a"]], response[arrays["pair_b"]]
        return PoolPart(Pool(**arrays), prompts, responses, pairs)

    def signal(self, name: str) -> npt.NDArray[Any]:
        """The optional array of that name. Raises MissingSignal if this pool has none."""
        array: npt.NDArray[Any] | None = getattr(self, name)
        if array is None:
            signal = next(spec.metadata["signal"] for spec in fields(self) if spec.name == name)
            raise MissingSignal(
                f"the pool has no {name}",
                expected=f"a pool with the signal {signal!r}",
                todo="mark the strategy with @needs, and build the pool with what it needs",
            )
        return array

    @property
    def n_responses(self) -> int:
        return len(self.prompt_of_response)

    @property
    def n_pairs(self) -> int:
        return len(self.pair_a)

    @property
    def n_prompts(self) -> int:
        """One more than the highest position of a prompt; some may have no response."""
        return int(self.prompt_of_response.max()) + 1 if self.n_responses else 0

    @property
    def n_eligible(self) -> int:
        return int(np.count_nonzero(self.pair_eligible))

    @property
    def prompt_of_pair(self) -> Positions:
        """The position of the prompt of each pair, (n_pairs,)."""
        return self.prompt_of_response[self.pair_a]

    @property
    def responses_per_prompt(self) -> Positions:
        """K, the number of responses of each prompt, (n_prompts,)."""
        return np.bincount(self.prompt_of_response, minlength=self.n_prompts)


@dataclass(frozen=True, eq=False)
class PoolPart:
    """A pool of some prompts, and where its prompts, responses and pairs stand in the whole one."""

    pool: Pool
    prompts: Positions
    responses: Positions
    pairs: Positions


@dataclass(frozen=True, eq=False)
class Selection:
    """The pairs that a strategy chose, in the order in which it chose them.

    - `positions` (n,) int64, positions of the pool's pairs.
    - `scores` (n,) float64, what ranked them, high = chosen first; NaN where a pick was only drawn.
    - `propensities` (n,) float64 in (0, 1], the probability with which this draw takes that pair.
      Given only by a strategy that could have taken any eligible pair. NaN from all others.
      `random` draws all at once and gives the chance to be in the batch, by which an estimate over
      the pool divides; a strategy that picks one after the other, such as `hybrid`, gives the
      chance of that pick after those before it, in the order of the selection, as LURE and other
      estimators of active testing want it (Farquhar, Gal and Rainforth, arXiv 2101.11665).
    """

    positions: Positions
    scores: Floats
    propensities: Floats

    @classmethod
    def of(
        cls,
        positions: Positions,
        *,
        scores: Floats | None = None,
        propensities: Floats | None = None,
    ) -> Selection:
        """A selection with NaN wherever nothing is given."""
        unknown = np.full(len(positions), np.nan)
        return cls(
            positions=positions,
            scores=unknown if scores is None else scores,
            propensities=unknown.copy() if propensities is None else propensities,
        )


Strategy: TypeAlias = Callable[[Pool, int, np.random.Generator], Selection]

SIGNALS = frozenset(spec.metadata["signal"] for spec in fields(Pool) if spec.metadata["signal"])


def needs(*signals: str) -> Callable[[Strategy], Strategy]:
    """Marks a strategy with the signals that its pool must have, so that no others are computed."""
    unknown = set(signals) - SIGNALS
    if unknown:
        raise ValueError(f"there are no signals {sorted(unknown)}; there are {sorted(SIGNALS)}")

    def mark(strategy: Strategy) -> Strategy:
        strategy.needs = frozenset(signals)  # type: ignore[attr-defined]
        return strategy

    return mark


def signals_needed(strategy: Strategy) -> frozenset[str]:
    """The signals that the strategy's pool must have; of an unmarked one none."""
    marked: frozenset[str] = getattr(strategy, "needs", frozenset())
    return marked


def eligible_for(pool: Pool, n: int) -> Positions:
    """The positions of the eligible pairs, ascending, when n of them can be chosen.

    The first line of every strategy. Raises BadBatchSize if n < 1, PoolTooSmall if n is more than
    there are.
    """
    if not isinstance(n, int | np.integer) or n < 1:
        raise BadBatchSize(
            f"{n!r} pairs were asked for",
            expected="a whole number of at least 1",
            todo="ask for one pair or more",
        )
    eligible = np.flatnonzero(pool.pair_eligible)
    if n > len(eligible):
        raise PoolTooSmall(asked=int(n), eligible=len(eligible))
    return eligible


def check_selection(pool: Pool, selection: Selection, n: int) -> None:
    """Nothing, if the selection is n distinct eligible pairs of this pool as the contract says.

    Raises StrategyViolation otherwise. For whoever calls a strategy that others may have written.
    """
    if not isinstance(selection, Selection):
        raise _violation(f"gave back a {type(selection).__name__}", "a Selection")
    _check_column("positions", selection.positions, np.dtype(np.int64), n)
    _check_column("scores", selection.scores, np.dtype(np.float64), n)
    _check_column("propensities", selection.propensities, np.dtype(np.float64), n)
    positions, propensities = selection.positions, selection.propensities
    outside = positions[(positions < 0) | (positions >= pool.n_pairs)]
    if outside.size:
        raise _violation(f"chose position {outside[0]}", f"positions from 0 to {pool.n_pairs - 1}")
    if len(np.unique(positions)) != n:
        raise _violation("chose a pair twice", f"{n} distinct pairs")
    barred = positions[~pool.pair_eligible[positions]]
    if barred.size:
        raise _violation(f"chose pair {barred[0]}, which is not eligible", "eligible pairs")
    wrong = propensities[(propensities <= 0) | (propensities > 1)]
    if wrong.size:
        raise _violation(f"gave the propensity {wrong[0]}", "above 0 and at most 1, or NaN")


def _check_column(name: str, column: object, dtype: np.dtype[Any], n: int) -> None:
    expected = f"an array ({n},) of {dtype}"
    if not isinstance(column, np.ndarray):
        raise _violation(f"gave {name} as a {type(column).__name__}", expected)
    if column.shape != (n,) or column.dtype != dtype:
        raise _violation(f"gave {name} as an array {column.shape} of {column.dtype}", expected)


def _violation(found: str, expected: str) -> StrategyViolation:
    return StrategyViolation(
        f"the strategy {found}",
        expected=expected,
        todo="this is a fault of the strategy: report it to its author, and use another",
    )


def _as_dtype(given: npt.ArrayLike, dtype: np.dtype[Any], name: str) -> npt.NDArray[Any]:
    array = np.asarray(given)
    if array.dtype == dtype:
        return array
    if dtype.kind == "i" and array.dtype.kind in "iu":
        return array.astype(dtype)
    raise BadPool(
        f"{name} is an array of {array.dtype}",
        expected=f"an array of {dtype}",
        todo=f"convert it with .astype(np.{dtype})",
    )


def _check_shape(
    array: npt.NDArray[Any], axes: tuple[str, ...], name: str, sizes: dict[str, tuple[int, str]]
) -> None:
    """Compare with the arrays seen before; `sizes` holds each axis' length and who set it."""
    if array.ndim != len(axes):
        raise BadPool(f"{name} has shape {array.shape}", expected=f"an array of {' x '.join(axes)}")
    for axis, size in zip(axes, array.shape, strict=True):
        expected, by = sizes.setdefault(axis, (size, name))
        if size != expected:
            raise BadPool(
                f"{name} is of {size} {axis}, and {by} of {expected}",
                expected=f"as many {axis} in both",
            )


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _check_prompts(prompt_of_response: Positions) -> None:
    if not len(prompt_of_response):
        return
    low, high = int(prompt_of_response.min()), int(prompt_of_response.max())
    # Arrays of one entry a prompt are made from these: a hash in their place would fill memory.
    if low < 0 or high >= 2**31:
        raise BadPool(
            f"prompt_of_response holds {low if low < 0 else high}",
            expected="positions of prompts, counted from 0",
            todo="number the prompts, as np.unique(ids, return_inverse=True) does",
        )


def _check_pairs(pair_a: Positions, pair_b: Positions, prompt_of_response: Positions) -> None:
    for name, ends in (("pair_a", pair_a), ("pair_b", pair_b)):
        _check_range(ends, len(prompt_of_response), name, of="responses")
    if (at := _first_true(pair_a == pair_b)) is not None:
        raise BadPool(
            f"pair {at} is of response {pair_a[at]} with itself",
            expected="two different responses",
        )
    prompt_a, prompt_b = prompt_of_response[pair_a], prompt_of_response[pair_b]
    if (at := _first_true(prompt_a != prompt_b)) is not None:
        raise BadPool(
            f"pair {at} joins prompts {prompt_a[at]} and {prompt_b[at]}",
            expected="two responses to the same prompt",
        )
    _check_distinct(pair_a, pair_b, len(prompt_of_response))


def _first_true(flags: Bools) -> int | None:
    return int(np.argmax(flags)) if flags.any() else None


def _check_distinct(pair_a: Positions, pair_b: Positions, n_responses: int) -> None:
    keys = np.minimum(pair_a, pair_b) * n_responses + np.maximum(pair_a, pair_b)
    if np.all(keys[1:] > keys[:-1]):
        return
    keys.sort()
    twice = keys[1:][keys[1:] == keys[:-1]]
    if twice.size:
        a, b = divmod(int(twice[0]), n_responses)
        raise BadPool(
            f"the pair of responses {a} and {b} stands in the pool twice",
            expected="every pair once, in one order or the other",
        )


def _check_range(positions: Positions, n: int, name: str, *, of: str) -> None:
    outside = positions[(positions < 0) | (positions >= n)]
    if outside.size:
        raise BadPool(f"{name} holds {outside[0]}", expected=f"positions of the {n} {of}, from 0")


def _check_lengths(vectors: Vectors) -> None:
    """Vectors of length 1, read in blocks: a memmap need not fit in memory."""
    step = max(1, BLOCK_BYTES // (4 * max(1, vectors.shape[1])))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.sqrt(np.vecdot(block, block))
            wrong = ~(np.abs(lengths - 1.0) <= LENGTH_TOLERANCE)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise _bad_length(start + at, float(lengths[at]))


def _bad_length(response: int, length: float) -> BadPool:
    if np.isnan(length):
        found = f"the vector of response {response} holds NaN"
    elif length == 0.0:
        found = f"the vector of response {response} is zero"
    else:
        found = f"the vector of response {response} has length {length:.6g}"
    return BadPool(
        found,
        expected="vectors of length 1",
        todo="embed that response again, or divide the vectors by their lengths",
    )
