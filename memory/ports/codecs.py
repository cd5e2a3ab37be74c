"""What makes the vectors of segments small, and where is it kept what it learned?"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from memory.domain.codecs import Code, Codebook, ColdSegment, NewCodebook
from memory.ports.models import Vectors

GoesOn = Callable[[float], bool]
"""Told the share that is done (0–1), from time to time; False: end soon, with what is learned so far."""


class Coder(Protocol):
    """sync; stateless. The same vectors give the same code, and it gives the same vectors back."""

    def encode(self, stretch: Vectors) -> bytes:
        """`stretch`: float32 [n, d], unit length, of 1 to 255 segments. Raises ValueError for another shape."""

    def decode(self, code: bytes) -> Vectors:
        """float32 [n, d], unit length. Raises CodeUnreadable for damaged bytes and for another codebook's code."""


class Codec(Protocol):
    """sync"""

    @property
    def name(self) -> str: ...

    @property
    def least(self) -> int:
        """Vectors that it needs to learn from; 0: it learns nothing."""

    def train(self, stretches: Sequence[Vectors], goes_on: GoesOn) -> bytes:
        """The codebook, sealed. CPU work on one thread. The same stretches give the same codebook."""

    def open(self, codebook: bytes, dimensions: int) -> Coder:
        """Raises CodebookDamaged for damaged bytes, another codec's, another format's, and other dimensions."""


class CodebookRepository(Protocol):
    async def publish(self, tenant_id: str, space: str, codebooks: Sequence[NewCodebook], now: datetime) -> None:
        """Each as the next version of its codec."""

    async def all(self, tenant_id: str, space: str) -> list[Codebook]:
        """Newest first."""

    async def body(self, codebook_key: int) -> bytes | None: ...

    async def forget(self, tenant_id: str, now: datetime) -> dict[str, int]:
        """Drops all codebooks and codes of a tenant, and ends the work on them; counts by kind."""

    async def remove(self, codebook_key: int) -> int:
        """Drops a codebook with its codes; their number."""

    async def remove_superseded(self, tenant_id: str, space: str) -> None:
        """Drops what is not the newest of its codec and has no code."""

    async def sample(self, tenant_id: str, space: str, audience: str, after_key: int, limit: int) -> list[ColdSegment]:
        """Embedded segments of the events of one visibility class, by key, held or not."""

    async def uncoded(self, session_key: int, space: str, limit: int) -> list[ColdSegment]:
        """Cold segments of a session that no code holds, by key."""

    async def sessions_with_uncoded(self, tenant_id: str, space: str, after_key: int, limit: int) -> list[int]:
        """session_keys, ascending."""

    async def add_codes(self, tenant_id: str, codes: Sequence[Code]) -> None:
        """What a segment has a code already is left as it is, with the whole code that would hold it twice."""

    async def codes(self, session_key: int) -> list[Code]:
        """In the order they were made."""

    async def cold(self, tenant_id: str, space: str) -> dict[str, int]:
        """segments: cold ones; coded: of them; code_bytes."""
