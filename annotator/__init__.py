"""annotator: an active-learning annotation loop for preference pairs."""

__version__ = "0.1.0"
