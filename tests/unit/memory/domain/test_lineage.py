from memory.domain.lineage import Lineage, Stretch, heir_of


def stretch(key, first, last, memory=0, tokens=None):
    return Stretch(key, first, last, memory, last * 2 if tokens is None else tokens)


def spans(lineage):
    return [(s.session_key, s.first_seq, None if s.open else s.last_seq) for s in lineage.stretches]


def fork(key, parent, seq, memories=None):
    return Lineage(key, parent.up_to(seq, seq * 2, memories or {}))


ROOT = Lineage(1)
CHILD = fork(2, ROOT, 5)
GRANDCHILD = fork(3, CHILD, 8)


def test_a_plain_session_is_one_open_stretch():
    assert spans(ROOT) == [(1, 1, None)]
    assert ROOT.elsewhere == ()


def test_the_stretches_of_a_fork_follow_each_other():
    assert spans(GRANDCHILD) == [(1, 1, 5), (2, 6, 8), (3, 9, None)]
    assert [s.shared_tokens for s in GRANDCHILD.inherited] == [10, 16]


def test_a_fork_of_what_its_parent_inherited_does_not_name_the_parent():
    assert spans(fork(4, GRANDCHILD, 3)) == [(1, 1, 3), (4, 4, None)]
    assert spans(fork(4, GRANDCHILD, 5)) == [(1, 1, 5), (4, 6, None)]
    assert spans(fork(4, GRANDCHILD, 0)) == [(4, 1, None)]


def test_memories_that_were_written_before_the_log_went_on_are_inherited():
    child = fork(2, ROOT, 5, {1: 40})
    assert child.inherited[0].last_memory == 40
    further = fork(3, child, 5, {1: 90, 2: 60})
    assert [(s.session_key, s.last_memory) for s in further.inherited] == [(1, 40), (2, 60)]
    assert further.stretches[-1].first_seq == 6


def test_only_the_stretches_between_two_places_are_read():
    assert [s.session_key for s in GRANDCHILD.between(5, 9)] == [2]
    assert [s.session_key for s in GRANDCHILD.between(None, None)] == [1, 2, 3]
    assert [s.session_key for s in GRANDCHILD.from_token(11)] == [2, 3]


def test_the_heir_is_who_sees_most():
    short, long = fork(4, ROOT, 2), fork(5, ROOT, 7)
    lineage, share = heir_of(1, [short, long, fork(6, long, 7)])
    assert (lineage.session_key, share.last_seq) == (5, 7)
    assert heir_of(9, [short, long]) is None


def test_of_two_that_see_the_same_log_the_heir_is_who_sees_more_memories():
    early, late = fork(4, ROOT, 2, {1: 10}), fork(5, ROOT, 2, {1: 20})
    assert heir_of(1, [late, early])[0] == late


def test_the_heir_of_its_only_ancestor_is_a_plain_session_again():
    assert spans(CHILD.handed_over(1, 2)) == [(2, 1, None)]


def test_others_see_the_same_places_as_the_heirs():
    assert spans(GRANDCHILD.handed_over(1, 7)) == [(7, 1, 5), (2, 6, 8), (3, 9, None)]
    assert spans(GRANDCHILD.handed_over(1, 2)) == [(2, 1, 8), (3, 9, None)]


def test_an_heir_of_the_first_ancestor_has_its_own_before_its_parents():
    after = GRANDCHILD.handed_over(1, 3)
    assert spans(after) == [(3, 1, 5), (2, 6, 8), (3, 9, None)]
    assert [s.session_key for s in after.elsewhere] == [2]
    assert spans(after.handed_over(2, 3)) == [(3, 1, None)]


def test_a_stretch_holds_its_events_and_memories():
    (inherited,) = fork(2, ROOT, 5, {1: 40}).inherited
    assert inherited.holds(1, 5)
    assert not inherited.holds(1, 6)
    assert not inherited.holds(2, 5)
    assert inherited.holds_memory(1, 40)
    assert not inherited.holds_memory(1, 41)
    assert not inherited.holds_memory(None, 1)


def test_the_last_share_of_a_session_is_what_counts():
    lineage = Lineage(9, (stretch(1, 1, 3), stretch(2, 4, 8), stretch(1, 9, 12)))
    assert lineage.share_of(1).last_seq == 12
    assert lineage.share_of(9) is None
