"""Which segments lie in one code?"""

from hypothesis import given
from hypothesis import strategies as st

from memory.domain.codecs import CODE_CHARACTERS, CODE_SEGMENTS, ColdSegment, stretches
from memory.domain.segments import Span


def segment(key, session=1, audience="session", item=None, start=0, length=400):
    return ColdSegment(key, key * 2 if item is None else item, session, audience, Span(start, start + length), b"")


segments = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from(["session", "private:ann"]), st.integers(1, 6_000)), max_size=120
).map(lambda drawn: [segment(key, s, a, length=n) for key, (s, a, n) in enumerate(drawn)])


@given(segments)
def test_each_segment_is_in_one_stretch_of_its_session_and_class_in_order(drawn):
    found = stretches(drawn, whole=False)
    assert sorted(s.segment_key for part in found for s in part) == [s.segment_key for s in drawn]
    for part in found:
        assert len({(s.session_key, s.audience) for s in part}) == 1
        assert [s.segment_key for s in part] == sorted(s.segment_key for s in part)
        assert 1 <= len(part) <= CODE_SEGMENTS
        assert sum(s.span.end for s in part[:-1]) < CODE_CHARACTERS


@given(segments)
def test_whole_stretches_are_full_and_stay_as_they_are_when_more_comes(drawn):
    found = stretches(drawn, whole=True)
    for part in found:
        assert len(part) == CODE_SEGMENTS or sum(s.span.end for s in part) >= CODE_CHARACTERS
    more = [*drawn, segment(len(drawn), 1), segment(len(drawn) + 1, 2)]
    later = stretches(more, whole=True)
    assert all(part in later for part in found)


def test_what_segments_overlap_by_counts_once():
    half = [segment(key, item=2, start=key * 500, length=1_000) for key in range(9)]
    (first, second) = stretches(half, whole=False)
    assert (len(first), len(second)) == (7, 2)  # 1,000 and then 500 more each
