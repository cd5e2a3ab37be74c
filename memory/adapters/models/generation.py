"""How does this process write answers itself? The runtime's thread computes; here its words reach the event loop."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memory.adapters.models.settings import GenerationSettings
from memory.domain.errors import GeneratorUnavailable, InvalidInput, PromptTooLong
from memory.domain.generation import (
    WHOLE_TENANT,
    CachedTokens,
    ChatMessage,
    Chunk,
    Delta,
    Fidelity,
    Finish,
    Finished,
    Prompt,
    RuntimeStats,
    Usage,
)
from memory.ports.generation import Generator

if TYPE_CHECKING:
    from model_runtime.generators.job import Done, Event
    from model_runtime.generators.runtime import Runtime

_MOST_WAITING = 256
# `auto` may give up exactness only where a quota would otherwise evict: so far it never does.
_POLICIES = {
    Fidelity.EXACT: "exact",
    Fidelity.AUTO: "exact",
    Fidelity.INT8: "int8",
    Fidelity.INT4: "int4",
    Fidelity.SPARSE: "sparse",
}


def load_generator(
    model: str, folder: Path, settings: GenerationSettings, salt: Callable[[str, str], str]
) -> "InProcessGenerator":
    """Loads "fixture", a folder or a hub id. Blocks for seconds. Raises GeneratorUnavailable.

    `salt(tenant_id, share_group)`: the same text for those who may share KV, not to be guessed by others.
    """
    from model_runtime.embedders.folder import UnusableModel
    from model_runtime.generators.runtime import RuntimeOptions, open_runtime
    from model_runtime.kv.retrieval import SparsePolicy

    options = RuntimeOptions(
        model,
        folder,
        device_bytes=settings.device_mib << 20,
        host_bytes=settings.host_mib << 20,
        disk_bytes=settings.disk_mib << 20,
        threads=settings.threads,
        dtype=settings.dtype,
        sparse=SparsePolicy(
            settings.sparse_dense_tokens,
            settings.sparse_window_tokens,
            settings.sparse_top_k,
            settings.sparse_dense_layers,
            settings.sparse_least_coverage,
        ),
    )
    try:
        return InProcessGenerator(open_runtime(options), salt)
    except (UnusableModel, OSError, ImportError) as error:
        raise GeneratorUnavailable(f"The model {model!r} can't be loaded: {error}") from error


class InProcessGenerator(Generator):
    """Owns its runtime: `close()` ends it."""

    def __init__(self, runtime: "Runtime", salt: Callable[[str, str], str]) -> None:
        self._runtime = runtime
        self._salt = salt

    @property
    def model(self) -> str:
        return self._runtime.checkpoint.name

    @property
    def max_tokens(self) -> int:
        """What the model reads and all tiers together hold."""
        return min(self._runtime.checkpoint.max_tokens, self._runtime.capacity("exact"))

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        from model_runtime.generators.job import Done, Failed, Job, Text
        from model_runtime.generators.sampling import SamplingOptions

        ids = await asyncio.to_thread(self._ids, prompt.messages)
        policy = _POLICIES[prompt.fidelity]
        codec = "exact" if policy == "sparse" else policy
        self._check_length(len(ids), codec)
        if self._runtime.engine.waiting >= _MOST_WAITING:
            raise GeneratorUnavailable("too many answers are waiting: try again later")
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(event: "Event") -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(events.put_nowait, event)

        wanted = prompt.sampling
        options = SamplingOptions(wanted.temperature, wanted.top_p, wanted.max_tokens, wanted.stop, wanted.seed)
        namespace = self._runtime.namespace(self._salt(prompt.tenant_id, prompt.share_group), policy)
        job = Job(tuple(ids), options, namespace, codec, emit, prompt.prepared, sparse=policy == "sparse")
        self._submit(job)
        try:
            while True:
                match await events.get():
                    case Text(text):
                        yield Delta(text)
                    case Done() as done:
                        yield _finished(done)
                        return
                    case Failed(message):
                        raise GeneratorUnavailable(f"the model could not go on: {message}")
        finally:
            job.cancelled.set()

    async def count(self, messages: Sequence[ChatMessage]) -> int:
        return len(await asyncio.to_thread(self._ids, messages))

    def stats(self) -> RuntimeStats:
        return RuntimeStats(**self._runtime.stats())

    async def check(self) -> None:
        if not self._runtime.engine.running:
            raise GeneratorUnavailable("the model's thread has ended: restart the service")

    async def forget(self, tenant_id: str) -> int:
        """Drops all KV of a tenant on every tier, and fails the answers that read it; the number of blocks.

        Raises GeneratorUnavailable.
        """
        salt = self._salt(tenant_id, WHOLE_TENANT)
        namespaces = frozenset(self._runtime.namespace(salt, policy) for policy in set(_POLICIES.values()))
        try:
            return await asyncio.wrap_future(self._runtime.forget(namespaces))
        except OSError as error:
            raise GeneratorUnavailable(f"KV could not be deleted: {error}") from error

    def close(self) -> None:
        self._runtime.close()

    def _check_length(self, tokens: int, codec: str) -> None:
        reads, holds = self._runtime.checkpoint.max_tokens, self._runtime.capacity(codec)
        if tokens >= reads:
            raise PromptTooLong(f"the prompt has {tokens} tokens; the model reads {reads}")
        if tokens >= holds:
            raise PromptTooLong(
                f"the prompt has {tokens} tokens; all tiers together hold the KV of {holds}:"
                " STRATAMEM_GENERATION__DEVICE_MIB, …__HOST_MIB and …__DISK_MIB say how much"
            )

    def _submit(self, job: "object") -> None:
        if not self._runtime.engine.running:
            raise GeneratorUnavailable("the model's thread has ended: restart the service")
        self._runtime.engine.submit(job)  # type: ignore[arg-type]

    def _ids(self, messages: Sequence[ChatMessage]) -> list[int]:
        from model_runtime.generators.chat import UnfitMessages

        try:
            return self._runtime.chat.ids([{"role": m.role, "content": m.content} for m in messages])
        except UnfitMessages as error:
            raise InvalidInput(str(error)) from error


def _finished(done: "Done") -> Finished:
    usage = Usage(
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        cached=CachedTokens(**done.cached),
        prefill_ms=done.prefill_ms,
        restore_ms=done.restore_ms,
        coverage=done.coverage,
    )
    return Finished(Finish(done.reason), usage)
