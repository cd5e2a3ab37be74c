"""Who counts what is asked for, so that all processes that share the counter see one number?"""

from typing import Protocol

from memory.domain.quotas import Allowance, Standing


class Counter(Protocol):
    async def add(self, allowance: Allowance, who: str, cost: int) -> Standing:
        """Also what is beyond the allowance counts: `used` may be more than its amount."""

    async def look(self, allowance: Allowance, who: str) -> Standing: ...

    async def forget(self, allowance: Allowance, who: str) -> None:
        """As if nothing had been used; where the counter is away, it ends by itself."""
