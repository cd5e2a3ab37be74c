"""How much does a word weigh? BM25 (Robertson and Zaragoza 2009) with the constants that tantivy has built in."""

import math

import numpy as np

K1 = 1.2
B = 0.75

# SmallFloat "int4": 24 lengths are free, above them 4 significant bits (Lucene's and tantivy's field norms)
_EXACT = 24


def idf(documents: int, frequency: int) -> float:
    """`frequency` of `documents` have the term. Never negative."""
    return math.log(1 + (documents - frequency + 0.5) / (frequency + 0.5))


def single_idf(documents: int, frequency: int) -> float:
    """`idf` as tantivy rounds it, in float32. 10 % off for a word of nearly every document in a million, 0 in 2^24."""
    ratio = np.float32(documents - frequency + 0.5) / np.float32(frequency + 0.5)
    return math.log(float(np.float32(1) + ratio))


def saturation(frequency: int, length: float, average: float, k1: float = K1, b: float = B) -> float:
    """The weight of a term that stands `frequency` times among `length` terms; 0 to k1 + 1."""
    return (k1 + 1) * frequency / (frequency + k1 * (1 - b + b * length / average))


def stored_length(length: int) -> int:
    """The length that tantivy's one-byte field norm keeps: exact up to 40 terms, then up to 11 % too short."""
    if length < _EXACT + 8:
        return length
    rest = length - _EXACT
    shift = rest.bit_length() - 4
    return _EXACT + ((rest >> shift) << shift)
