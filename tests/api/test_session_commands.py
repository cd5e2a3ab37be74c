"""How a session's figures read on the command line."""

import pytest

from api.sessions.commands import tokens_of


@pytest.mark.parametrize(
    ("tokens", "read"),
    [
        (27, "27, all in the window (131,072)"),
        (131_072, "131,072, all in the window (131,072)"),
        (131_073, "131,073, of which the window keeps 131,072"),
    ],
)
def test_the_window_is_told_beside_what_there_is(tokens: int, read: str) -> None:
    assert tokens_of({"token_count": tokens, "window_tokens": 131_072}) == read
