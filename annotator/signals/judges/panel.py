"""Several judges of the same responses: their mean, and how far they differ on a pair.

The spread between judges is not the variance between responses, which is the data map's, nor the
doubt of one judge. On real sets it does not order pairs by difficulty as the mean gap does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from annotator.errors import ScoreError
from annotator.signals.scores import FROM_DATA, Ids, scores_by, source_score_names
from strategies.within_prompt import Floats, Positions

if TYPE_CHECKING:
    from sqlite_utils import Database

UNLIKE = 3.0  # times another judge's standard deviation: then one judge rules the mean


@dataclass(frozen=True, eq=False)
class Panel:
    """Scores by several judges, (n_judges, n_responses), NaN where a judge gave none."""

    names: tuple[str, ...]
    scores: Floats

    def mean(self) -> Floats:
        """The mean score of each response over the judges that scored it, (n_responses,)."""
        return mean_of_known(self.scores)

    def gaps(self, pair_a: Positions, pair_b: Positions) -> Floats:
        """Each judge's score of a less that of b, (n_judges, n_pairs)."""
        found: Floats = self.scores[:, pair_a] - self.scores[:, pair_b]
        return found

    def mean_gap(self, pair_a: Positions, pair_b: Positions) -> Floats:
        """The mean gap over the judges that scored both responses, (n_pairs,); NaN if none did."""
        return mean_of_known(self.gaps(pair_a, pair_b))

    def spread(self, pair_a: Positions, pair_b: Positions) -> Floats:
        """The standard deviation (ddof 0) of the gap over those judges, (n_pairs,).

        NaN where fewer than two scored both.
        """
        gaps = self.gaps(pair_a, pair_b)
        n = np.count_nonzero(~np.isnan(gaps), axis=0)
        deviation = np.sqrt(mean_of_known((gaps - mean_of_known(gaps)) ** 2))
        return np.where(n >= 2, deviation, np.nan)

    def unlike_scales(self) -> tuple[str, str] | None:
        """The judges with the widest and the narrowest scores, if they are UNLIKE; else None.

        The mean takes scores as they are, so the first of the two would rule it.
        """
        deviations = np.array([np.nanstd(row) if _any(row) else np.nan for row in self.scores])
        if not np.any(deviations > 0):
            return None
        varied = np.flatnonzero(deviations > 0)
        widest = varied[np.argmax(deviations[varied])]
        narrowest = varied[np.argmin(deviations[varied])]
        if deviations[widest] <= UNLIKE * deviations[narrowest]:
            return None
        return self.names[widest], self.names[narrowest]


def matching(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that one of the patterns fits, sorted; `*` stands for anything, case counts.

    A pattern that is a name means that one alone, whatever signs are in it.
    """
    known = set(names)
    exact = known.intersection(patterns)
    wild = [p for p in patterns if p not in known]
    return sorted(exact | {name for name in known if any(fnmatchcase(name, p) for p in wild)})


def scores_in_data(db: Database, patterns: Sequence[str], response_ids: Ids) -> Panel:
    """The scores that came with the data under names that one of the patterns fits.

    For these responses, in this order. Raises ScoreError, with the names there are, if none fits.
    """
    known = source_score_names(db)
    names = matching([p.removeprefix(FROM_DATA) for p in patterns], known)
    if not names:
        raise no_such_scores(patterns, known)
    rows = [scores_by(db, FROM_DATA + name, response_ids) for name in names]
    return Panel(tuple(names), np.stack(rows))


def no_such_scores(patterns: Sequence[str], known: Iterable[str]) -> ScoreError:
    """The error for patterns that fit none of the names of scores there are."""
    names = sorted(known)
    return ScoreError(
        f"no response has a score named {' or '.join(repr(p) for p in patterns)}",
        expected=f"one of {', '.join(names)}" if names else "a set whose responses carry scores",
        todo="name one of these, or a pattern such as 'llm:*'" if names else "",
    )


def _any(row: npt.NDArray[np.float64]) -> bool:
    return bool(np.any(~np.isnan(row)))


def mean_of_known(rows: Floats) -> Floats:
    """The mean over the first axis of what is not NaN; NaN where nothing is."""
    n = np.count_nonzero(~np.isnan(rows), axis=0)
    total = np.nansum(rows, axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)
