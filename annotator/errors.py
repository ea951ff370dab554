"""Everything that annotator raises, drawn as a tree.

AnnotatorError                     base; the command line prints it without a traceback, exit 1
├── ConfigError                    a setting is missing, misspelt or out of range
├── StoreError                     the database
│   ├── NotOurDatabase             the file is something else
│   ├── NewerSchema                written by a later release
│   ├── DamagedDatabase            SQLite finds it corrupt
│   └── StoreBusy                  another process holds it for too long
├── CandidateError                 what was to be imported
│   ├── UnknownFormat              no reader recognises the file
│   └── RejectedRow                one row is refused; the import goes on
├── EncoderError                   embeddings
│   ├── EncoderMissing             weights or package are not there
│   └── BadVectors                 NaN, zero or of the wrong dimension
├── ScoreError                     scores of responses, and the data map made of them
├── PreferenceError                votes or features that no preference model can be fitted to
├── RoundError                     choosing a batch
│   └── RoundConflict              another process took the pairs first
├── StudioError                    Label Studio
│   ├── StudioUnreachable          no answer: refused, timed out, cut off
│   ├── StudioDenied               the token is not accepted (401, 403)
│   ├── StudioNotFound             no such project, task or user (404)
│   ├── StudioRejected             the request was refused as wrong (400, 409, 422)
│   ├── StudioFailed               the server failed (5xx, or an answer that is no JSON)
│   └── LocalStudioError           the local server cannot be installed or started
├── BudgetError                    what was spent, or a certificate, cannot be recorded
├── ServeError                     the dashboard cannot be served as asked
├── JudgeError                     the server whose language model judges
│   ├── JudgeDenied                the key is not accepted (401, 403): stop
│   ├── JudgeQuota                 the account is out of money (402, 429 insufficient_quota): stop
│   ├── JudgeNoModel               no such model, or no such address (404): stop
│   ├── JudgeUnsupported           a parameter is refused by name (400, 403, 422): stop, probe again
│   ├── JudgeBudget                the cap on spending would be passed: stop
│   ├── JudgeRefused               this text is declined or too long: final for the call
│   ├── JudgeRejected              refused as wrong for another reason: not sent again in this run
│   ├── JudgeBusy                  later, please (408, 409, 429, 5xx): sent again
│   ├── JudgeUnreachable           no answer, or half of one: sent again
│   └── JudgeMalformed             an answer that is no chat completion: sent again
└── Incomplete                     finished, but some rows failed and are listed; exit 3

Errors of `strategies` (which knows nothing of this package) have their own small family in
`strategies.pool`; the command line prints them in the same way.
"""

from __future__ import annotations

from typing import Any


class AnnotatorError(Exception):
    """Something went wrong that a person can understand and act on.

    `found` says what is the case, `expected` what should have been, `todo` what to do next.
    """

    exit_code = 1

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


class ConfigError(AnnotatorError):
    """A setting is missing, misspelt or out of range."""


class StoreError(AnnotatorError):
    """The database cannot be used."""


class NotOurDatabase(StoreError):
    """The file exists and is not a database of annotator."""


class NewerSchema(StoreError):
    """The database was written by a later release of annotator."""


class DamagedDatabase(StoreError):
    """SQLite reports that the file is corrupt."""


class StoreBusy(StoreError):
    """Another process held the database or a lock for longer than we wait."""


class CandidateError(AnnotatorError):
    """A file of candidates cannot be read."""


class UnknownFormat(CandidateError):
    """No reader recognises the file."""


class RejectedRow(CandidateError):
    """One row is refused, with the reason; the rest of the file is still imported."""


class EncoderError(AnnotatorError):
    """Texts cannot be embedded."""


class EncoderMissing(EncoderError):
    """The encoder's weights or its package are not there."""


class BadVectors(EncoderError):
    """Vectors hold NaN or infinity, have no length, or have the wrong dimension."""


class ScoreError(AnnotatorError):
    """There are no scores of that name, or too few for a data map."""


class PreferenceError(AnnotatorError):
    """Votes or features that no preference model can be fitted to."""


class RoundError(AnnotatorError):
    """A batch cannot be chosen or recorded."""


class RoundConflict(RoundError):
    """Another process recorded one of the chosen pairs first."""


class StudioError(AnnotatorError):
    """Label Studio did not do what was asked."""


class StudioUnreachable(StudioError):
    """Label Studio gave no answer: connection refused, timed out or cut off."""


class StudioDenied(StudioError):
    """Label Studio does not accept the token (401 or 403)."""


class StudioNotFound(StudioError):
    """Label Studio has no such project, task or person (404)."""


class StudioRejected(StudioError):
    """Label Studio refused the request as wrong (400, 409 or 422)."""


class StudioFailed(StudioError):
    """Label Studio failed (5xx), or answered something that is not JSON."""


class LocalStudioError(StudioError):
    """The local Label Studio cannot be installed, started or stopped."""


class BudgetError(AnnotatorError):
    """What was spent, or a promise about pairs, cannot be recorded as asked."""


class ServeError(AnnotatorError):
    """The dashboard cannot be served: the address is taken, or a token will not do."""


class JudgeError(AnnotatorError):
    """The judge's server did not do what was asked.

    `status` is its HTTP status, None where it gave none. `maybe_billed` is True where the server
    may have done the work, and charged for it, although we have no answer.
    """

    def __init__(
        self,
        found: str,
        *,
        expected: str = "",
        todo: str = "",
        status: int | None = None,
        maybe_billed: bool = False,
    ) -> None:
        super().__init__(found, expected=expected, todo=todo)
        self.status = status
        self.maybe_billed = maybe_billed


class JudgeDenied(JudgeError):
    """The server does not accept the API key (401 or 403)."""


class JudgeQuota(JudgeError):
    """The account has no money left (402, or 429 with insufficient_quota)."""


class JudgeNoModel(JudgeError):
    """The server has no such model, or nothing at all at that address (404)."""


class JudgeUnsupported(JudgeError):
    """The server or the model refuses a parameter by name, or lacks what was configured."""

    parameter: str | None = None  # the one that was refused


class JudgeBudget(JudgeError):
    """The cap on spending would be passed, or nothing is known that could be held against it."""


class JudgeRefused(JudgeError):
    """The server declines this text, or it is too long: another attempt would end the same way."""


class JudgeRejected(JudgeError):
    """The server refuses the request as wrong, for a reason that is not one of those above."""


class JudgeBusy(JudgeError):
    """The server cannot answer now (408, 409, 429 or 5xx).

    `retry_after` is the number of seconds it asks for, None where it names none.
    """

    def __init__(
        self,
        found: str,
        *,
        retry_after: float | None = None,
        todo: str = "",
        status: int | None = None,
        maybe_billed: bool = False,
    ) -> None:
        super().__init__(found, todo=todo, status=status, maybe_billed=maybe_billed)
        self.retry_after = retry_after


class JudgeUnreachable(JudgeError):
    """No answer, or half of one: refused, timed out or cut off."""


class JudgeMalformed(JudgeError):
    """The server answered 200 with something that is no chat completion.

    `raw` is the beginning of what it sent; `usage` what that says of tokens
    (annotator.signals.judges.reply.Usage), None where it says nothing.
    """

    def __init__(self, found: str, *, raw: str, usage: Any = None) -> None:
        super().__init__(found, status=200, maybe_billed=True)
        self.raw = raw
        self.usage = usage


class Incomplete(AnnotatorError):
    """The work is finished, but some rows failed; they are listed."""

    exit_code = 3
