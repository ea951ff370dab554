"""Labelled pairs as training data, and votes as they were given, with where each row is from."""
