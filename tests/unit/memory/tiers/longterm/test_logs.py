import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memory.tiers.longterm.logs import Logs


@given(st.dictionaries(st.tuples(st.integers(1, 3), st.integers(1, 12)), st.just(0)), st.integers(0, 99))
def test_logs_that_are_made_at_once_are_those_that_grew(events, seed):
    order = list(events)
    np.random.default_rng(seed).shuffle(order)
    grown = Logs()
    for row, (session, seq) in enumerate(order):
        grown.place(session, seq, row)
    sessions, seqs = np.array(order, np.int64).reshape(-1, 2).T
    made = Logs.of(np.append(sessions, 9), np.append(seqs, 0))  # a memory at the end
    for session in (1, 2, 3, 9):
        assert made.rows(session).tolist() == grown.rows(session).tolist()
        for seq in range(14):
            expected = order.index((session, seq)) if (session, seq) in events else -1
            assert made.at(session, seq) == grown.at(session, seq) == expected
        between = [made.at(session, seq) for seq in range(3, 8)]
        assert [row for row in made.between(session, 3, 7).tolist() if row >= 0] == [r for r in between if r >= 0]


def test_a_log_may_begin_in_the_middle_and_get_its_beginning_later():
    logs = Logs()
    logs.place(1, 5, 0)
    logs.place(1, 3, 1)
    assert logs.rows(1).tolist() == [1, -1, 0]
    assert logs.between(1, 1, 4).tolist() == [1, -1]
    assert (logs.at(1, 2), logs.at(1, 3), logs.at(2, 1)) == (-1, 1, -1)
