"""ROUGE-L of two texts: how much of their words they share in order.

For English and other text in Latin letters: words are runs of a-z and 0-9 after lower-casing, as
the reference implementation of Google Research splits them, so that figures can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

_WORDS = re.compile(r"[a-z0-9]+")


def rouge_l(reference: str, candidate: str) -> float:
    """The F1 of ROUGE-L, from 0 to 1 (Lin 2004, section 3.1, with beta = 1).

    2 L / (m + n), where L is the length of the longest common subsequence of the m and n words.
    NaN where either text has no word in this sense: there is nothing to compare, which is not
    the same as nothing in common.
    """
    words, others = _WORDS.findall(reference.lower()), _WORDS.findall(candidate.lower())
    if not words or not others:
        return float("nan")
    return 2 * common_subsequence(words, others) / (len(words) + len(others))


def common_subsequence(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence of `a` and `b`.

    Bit-parallel (Hyyro 2004, "Bit-parallel LCS-length computation revisited"): one addition and
    three logical operations on an integer of len(a) bits for each element of `b`. A zero bit at
    i says that the length grows between the prefixes of i and i + 1 elements of `a`.
    """
    occurs: dict[Hashable, int] = {}
    for i, element in enumerate(a):
        occurs[element] = occurs.get(element, 0) | 1 << i
    everywhere = (1 << len(a)) - 1
    grows = everywhere
    for element in b:
        matched = grows & occurs.get(element, 0)
        grows = ((grows + matched) | (grows - matched)) & everywhere
    return len(a) - grows.bit_count()
