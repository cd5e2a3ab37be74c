"""Who else vouches for a caller?"""

from typing import Protocol

from memory.domain.principals import Principal


class TokenVerifier(Protocol):
    async def verify(self, token: str) -> Principal | None:
        """Whom the token names; None: it is not valid here. Raises IdentityUnavailable when that can't be known."""
