"""What a request says of where it comes from."""

import pytest

from api.origins import Whence, is_local_name


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("[::1]:8080", True),
        ("stratamem:8080", True),
        ("app.localhost", True),
        ("192.168.1.7", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example.:80", False),
    ],
)
def test_names_of_machines_nearby_are_told_from_names_of_the_web(host: str, local: bool) -> None:
    assert is_local_name(host) is local


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("http://203.0.113.5:8080", True),
        ("https://203.0.113.5:8080", True),
        ("http://203.0.113.5", False),
        ("null", False),
        ("http://[", False),
        (None, False),
    ],
)
def test_the_own_page_is_the_one_that_has_our_name(origin: str | None, own: bool) -> None:
    assert Whence("203.0.113.5:8080", origin).own_page is own


def test_who_names_no_host_has_no_page_here() -> None:
    assert not Whence("", "null").own_page
    assert Whence("", "null").foreign
