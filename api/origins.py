"""Which page sends a request, and by which name did it find us? Browsers say both; no page chooses what they say.

A page of the web may have its own name point to this machine (`Host`), or send to ours from where it is (`Origin`).
"""

import functools
import ipaddress
from collections.abc import Mapping
from typing import NamedTuple, Self
from urllib.parse import urlsplit

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


class Whence(NamedTuple):
    """`origin` None: no page, or one that only looks at what is ours as it would at any picture."""

    host: str
    origin: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        return cls(headers.get("host", ""), headers.get("origin"))

    @property
    def own_page(self) -> bool:
        """Whether a page of this server sends it. Proxies that end TLS pass the name on, not the scheme."""
        return self.origin is not None and _name_in(self.origin) == self.host != ""

    @property
    def foreign(self) -> bool:
        """Whether a page of the web has a part in it."""
        if not is_local_name(self.host):
            return True
        return self.origin is not None and not self.own_page and not _is_nearby(self.origin)


@functools.lru_cache(maxsize=256)
def is_local_name(host: str) -> bool:
    """Whether a Host header names an address or a machine nearby: a page on the web can't have such a name."""
    name = _without_port(host)
    if "." not in name or name.endswith(_LOCAL_SUFFIXES):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_nearby(origin: str) -> bool:
    """Of an Origin header. `null` is the origin of what hides where it is from; pages may come from any address."""
    name = _name_in(origin)
    try:
        return not ipaddress.ip_address(_without_port(name)).is_global
    except ValueError:
        return name != "" and is_local_name(name)


def _name_in(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _without_port(host: str) -> str:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.strip("[]").rstrip(".").lower()
