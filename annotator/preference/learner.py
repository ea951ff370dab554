"""The learner: votes in, posterior out, the same for every strategy."""

from __future__ import annotations

from annotator.preference.features import ResponseFeatures
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.tuning import Setting, default_setting, tuned
from annotator.preference.votes import Votes, tally

VERSION = 4  # what a stored result was computed by; raise it when results change
FIRST_TUNING = 40  # votes
TUNE_AGAIN = 2.0  # times as many votes as at the last tuning


class Learner:
    """Fits the preference model to more and more votes on the same responses.

    Settings are tuned by the evidence when there are 40 votes and again whenever there are twice
    as many; in between, a fit begins where the last one ended.
    """

    def __init__(self, features: ResponseFeatures) -> None:
        self.features = features
        self.setting: Setting | None = None
        self._tuned_at = 0
        self._last: Posterior | None = None

    def learn(self, votes: Votes) -> Posterior:
        """The posterior after all these votes. Raises PreferenceError if votes join two prompts."""
        counted = tally(votes)
        has_strength = self.setting is not None and self.setting.model.much is not None
        if self.setting is None or has_strength != counted.has_strength:
            self.setting, self._tuned_at, self._last = default_setting(counted), 0, None
        if len(votes) >= max(FIRST_TUNING, TUNE_AGAIN * self._tuned_at):
            again = {"rounds": 1} if self._tuned_at else {}
            self.setting = tuned(self.features, counted, self.setting, **again)
            self._tuned_at, self._last = len(votes), None
        self._last = fit_posterior(
            self.features, counted, self.setting.prior, self.setting.model, self._last
        )
        return self._last
