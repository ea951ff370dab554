"""Scores of responses by a language model, and the account of what they cost."""
