"""How far a judge can be trusted: its scores against the votes of people.

`project` takes scores, votes and the data map of a project, `labelled` takes them from labelled
files without one; both hand over an `evidence.Evidence`, which `account` measures into one
document, and `words` puts that into lines for a terminal. `planted` adds what a judge does with
responses that ask for a high grade.
"""

from __future__ import annotations

from annotator.errors import AnnotatorError


class JudgeCheckError(AnnotatorError):
    """There is nothing to hold a judge against: no votes of people, or no scores of its."""


class NobodyVoted(JudgeCheckError):
    """There are scores, and no verdict of people to hold them against."""
