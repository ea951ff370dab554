"""The replay of a labelled set as if people answered: what a strategy would have saved.

`simulation.simulate` tells the story: the set becomes arrays (`world`), every strategy is replayed
with every seed (`replay`, measured by `metrics`, kept by `runs`), and the curves are compared
(`savings`), gathered in one document (`account`) and put into words (`words`).
"""

from __future__ import annotations

from annotator.errors import AnnotatorError


class SimulationError(AnnotatorError):
    """A labelled set cannot be replayed as asked."""
