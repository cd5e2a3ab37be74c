"""Nothing larger than 16 MiB gets in, whatever it says of itself."""

from collections.abc import Iterator
from typing import Any

import pytest

from api.limits import MAX_BODY_BYTES

APPEND = "/v1/sessions/s1/events"
JSON = {"Content-Type": "application/json"}
MEBIBYTE = b" " * (1 << 20)


def test_a_body_that_announces_too_much_is_refused_unread(client: Any, container: Any) -> None:
    answer = client.post(APPEND, content=b"{}", headers={**JSON, "Content-Length": str(MAX_BODY_BYTES + 1)})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"


def test_a_body_that_announces_nothing_is_counted_as_it_comes(client: Any, container: Any) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(40):
            sent += 1
            yield MEBIBYTE

    answer = client.post(APPEND, content=endless(), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["content-type"] == "application/problem+json"
    assert not container.events.calls


def test_sixteen_mebibytes_are_still_read(client: Any) -> None:
    event = b'{"events": [{"role": "user", "content": "x"}]}'
    body = event + b" " * (MAX_BODY_BYTES - len(event))
    assert client.post(APPEND, content=body, headers=JSON).status_code == 201


@pytest.mark.parametrize("length", ["many", "-1", "1e9"])
def test_a_length_that_is_no_number_is_not_believed(client: Any, length: str) -> None:
    answer = client.post(APPEND, content=iter([MEBIBYTE] * 17), headers={**JSON, "Content-Length": length})
    assert answer.status_code == 413
