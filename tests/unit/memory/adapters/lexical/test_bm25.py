from memory.adapters.lexical.bm25 import idf, saturation, single_idf, stored_length


def test_a_word_in_every_document_still_weighs_something():
    assert 0 < idf(100, 100) < idf(100, 50) < idf(100, 0)


def test_the_single_precision_idf_is_the_same_but_for_words_of_nearly_every_document():
    assert abs(single_idf(100_000, 500) / idf(100_000, 500) - 1) < 1e-6
    assert 0 < abs(single_idf(1_000_000, 1_000_000) / idf(1_000_000, 1_000_000) - 1) < 0.2
    assert single_idf(1 << 25, 1 << 25) == 0


def test_repeating_a_word_saturates():
    weights = [saturation(times, 10, 10) for times in (1, 2, 10, 10_000)]
    assert weights == sorted(weights)
    assert weights[0] == 1
    assert weights[-1] < 2.2


def test_stored_lengths_are_exact_when_short_and_never_longer():
    assert [stored_length(n) for n in range(41)] == list(range(41))
    assert [stored_length(n) for n in (41, 42, 55, 57, 95, 96, 1_000)] == [40, 42, 54, 56, 88, 96, 984]
    assert all(0.88 < stored_length(n) / n <= 1 for n in range(1, 10_000))
