"""Who has signed in with which key? Kept in this process's memory alone: a restart signs everybody out.

A browser holds 256 random bits in a cookie; the key itself stays here, and is authenticated again each time.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

HOURS = 12
_MOST = 10_000
"""Sign-ins at a time: the oldest goes."""


class SignIns:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def keep(self, token: str) -> str:
        """The name under which the key is found again."""
        name = secrets.token_urlsafe(32)
        self._kept[name] = (self._clock() + HOURS * 3_600, token)
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return name

    def token(self, name: str) -> str | None:
        """None: never signed in, signed out, or too long ago."""
        until, token = self._kept.get(name, (0.0, ""))
        if until > self._clock():
            return token
        self._kept.pop(name, None)
        return None

    def forget(self, name: str) -> None:
        self._kept.pop(name, None)
