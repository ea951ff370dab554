"""ROUGE-L against a table of prefixes and worked examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.signals.judges.rouge import common_subsequence, rouge_l


def _by_table(a: Sequence[int], b: Sequence[int]) -> int:
    lengths = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, one in enumerate(a, 1):
        for j, other in enumerate(b, 1):
            same = lengths[i - 1][j - 1] + 1
            lengths[i][j] = same if one == other else max(lengths[i - 1][j], lengths[i][j - 1])
    return lengths[-1][-1]


@given(st.lists(st.integers(0, 4), max_size=90), st.lists(st.integers(0, 4), max_size=90))
def test_the_length_is_that_of_the_table(a: list[int], b: list[int]) -> None:
    assert common_subsequence(a, b) == _by_table(a, b)


def test_long_texts_by_the_table() -> None:
    a = [(7 * i * i + i) % 23 for i in range(400)]
    b = [(5 * i * i + 3 * i) % 23 for i in range(333)]
    assert common_subsequence(a, b) == _by_table(a, b)


@pytest.mark.parametrize(
    ("reference", "candidate", "f1"),
    [
        # Lin 2004, section 3.1: recall and precision 3/4 and 2/4.
        ("police killed the gunman", "police kill the gunman", 3 / 4),
        ("police killed the gunman", "the gunman kill police", 2 / 4),
        ("The cat sat.", "the CAT, sat!", 1.0),
        ("a b c d", "a b", 2 * (2 / 4 * 1) / (2 / 4 + 1)),
        ("a b", "c d", 0.0),
        ("it's 42", "it s 42", 1.0),
        ("a_b", "a b", 1.0),
    ],
)
def test_worked_examples(reference: str, candidate: str, f1: float) -> None:
    assert rouge_l(reference, candidate) == pytest.approx(f1)
    assert rouge_l(candidate, reference) == pytest.approx(f1)


@pytest.mark.parametrize("text", ["", " \n", "...", "山は高い", "Ж"])
def test_without_words_there_is_nothing_to_compare(text: str) -> None:
    assert math.isnan(rouge_l("a b", text))
    assert math.isnan(rouge_l(text, "a b"))
