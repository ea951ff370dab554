"""Which labels look wrong, are contested, or say what was known already; of votes, or of any file.

A person's other opinion is not an error. So a label is `likely wrong` only where it stands alone
against a rest that is sure; where people split, or would, the pair is `contested`; a label that
everything else had foretold is `of low impact`.
"""

from __future__ import annotations

from annotator.errors import AnnotatorError


class DiagnoseError(AnnotatorError):
    """There is nothing to diagnose."""
