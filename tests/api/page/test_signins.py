from api.page.signins import HOURS, SignIns


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_found_under_its_name_until_it_is_forgotten_or_too_old() -> None:
    clock = Clock()
    kept = SignIns(clock)
    first, second = kept.keep("sm_a"), kept.keep("sm_a")
    assert first != second
    assert (kept.token(first), kept.token("guessed")) == ("sm_a", None)
    kept.forget(first)
    assert (kept.token(first), kept.token(second)) == (None, "sm_a")
    clock.now += HOURS * 3_600
    assert kept.token(second) is None


def test_there_are_so_many_at_a_time() -> None:
    kept = SignIns()
    names = [kept.keep("sm_a") for _ in range(10_001)]
    assert (kept.token(names[0]), kept.token(names[-1])) == (None, "sm_a")
