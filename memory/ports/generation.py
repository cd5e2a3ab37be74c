"""What turns a prompt into an answer?"""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from memory.domain.generation import ChatMessage, Chunk, Prompt, RuntimeStats


class Generator(Protocol):
    @property
    def model(self) -> str:
        """The name that clients ask for."""

    @property
    def max_tokens(self) -> int:
        """The context length: prompt and answer together have at most so many tokens."""

    async def moment(self) -> str | None:
        """Asked for before a prompt is put together, and given along with it: an answer to what was purged since fails.

        The engine's own time. None where its KV is not ours to forget. Raises GeneratorUnavailable.
        """

    def generate(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        """Zero or more `Delta`, then exactly one `Finished`; nothing runs before the first step.

        The caller owns the iterator: `aclose()` cancels the work behind it. An answer without `Finished` is not
        one: whatever breaks it off raises. Raises GeneratorUnavailable, PromptTooLong, UnsupportedParameter.
        """

    async def count(self, messages: Sequence[ChatMessage]) -> int:
        """Tokens of the messages as the model reads them. Runs off the event loop."""

    def stats(self) -> RuntimeStats | None:
        """None where the engine is elsewhere: it has metrics of its own."""

    async def check(self) -> None:
        """Raises GeneratorUnavailable."""
