"""The people who label: how far they agree, and who needs a word.

`project` takes votes, gold answers, repeats and skills out of a project's database as an
`evidence.Evidence`, `account` measures it into one document, and `words` puts that into lines for a
terminal. The measures themselves are in `annotator.labels`.
"""

from __future__ import annotations
