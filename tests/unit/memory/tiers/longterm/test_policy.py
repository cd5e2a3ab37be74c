from memory.tiers.longterm.policy import Staleness, should_save, widened


def test_nothing_new_is_never_saved():
    assert not should_save(Staleness(rows=10, unsaved=0, seconds=1e9), 30)


def test_a_small_index_is_saved_after_the_least_time():
    assert not should_save(Staleness(rows=100, unsaved=90, seconds=29), 30)
    assert should_save(Staleness(rows=100, unsaved=90, seconds=30), 30)


def test_a_million_rows_are_not_written_anew_for_one():
    assert not should_save(Staleness(rows=1_000_000, unsaved=1, seconds=60), 30)
    assert should_save(Staleness(rows=1_000_000, unsaved=1, seconds=330), 30)


def test_a_tenth_of_new_rows_is_reason_enough():
    assert should_save(Staleness(rows=1_000_000, unsaved=100_000, seconds=31), 30)


def test_a_search_widens_up_to_everything():
    assert widened(200, 10_000) == 800
    assert widened(5_000, 10_000) == 10_000
