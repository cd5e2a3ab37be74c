"""How is a stream of lines read from an engine that may send anything?"""

from collections.abc import AsyncGenerator

import httpx

from memory.domain.errors import GeneratorUnavailable


async def lines_of(response: httpx.Response, most_bytes: int) -> AsyncGenerator[bytes, None]:
    """Lines that have ended: what a cut leaves over is none. Raises GeneratorUnavailable for one that never ends."""
    pending = b""
    async for part in response.aiter_bytes():
        *lines, pending = (pending + part).split(b"\n")
        if len(pending) > most_bytes:
            raise GeneratorUnavailable(f"The model's engine sent a line of more than {most_bytes} bytes.")
        for line in lines:
            yield line
