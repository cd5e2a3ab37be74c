"""How much may a tenant, and each of its keys, ask for in a while?"""

from dataclasses import dataclass
from enum import StrEnum


class Resource(StrEnum):
    REQUESTS = "requests"
    BYTES = "bytes"
    TOKENS = "tokens"


class Holder(StrEnum):
    KEY = "key"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Allowance:
    """`amount` of a resource in each window of so many seconds, for each holder of its kind."""

    holder: Holder
    resource: Resource
    amount: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of an allowance, and in how many seconds it is whole again."""

    allowance: Allowance
    used: int
    reset: int

    @property
    def remaining(self) -> int:
        return max(self.allowance.amount - self.used, 0)
