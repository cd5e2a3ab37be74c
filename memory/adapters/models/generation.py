"""How does this process write answers itself? The runtime's thread computes; here its words become the memory's."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from memory.adapters.models.settings import GenerationSettings
from memory.domain.errors import GeneratorUnavailable, InvalidInput, PromptTooLong, TooManyAnswers, UnsupportedParameter
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
    from model_runtime.generators.ask import Question
    from model_runtime.generators.job import Done
    from model_runtime.generators.runtime import Runtime

T = TypeVar("T")

_POLICIES = {
    Fidelity.EXACT: "exact",
    Fidelity.AUTO: "auto",
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
    return InProcessGenerator(open_local(model, folder, settings), salt)


def open_local(model: str, folder: Path, settings: GenerationSettings) -> "Runtime":
    """The runtime of this process, with its KV in `folder`. Blocks for seconds. Raises GeneratorUnavailable."""
    from model_runtime.embedders.folder import UnusableModel
    from model_runtime.generators.places import PlaceOptions
    from model_runtime.generators.runtime import RuntimeOptions, open_runtime
    from model_runtime.kv.retrieval import SparsePolicy
    from model_runtime.kv.shares import ShareOptions

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
        shares=ShareOptions(tenant=settings.tenant_share, pins=settings.pin_share),
        places=PlaceOptions(of_tenant=settings.tenant_answers),
    )
    try:
        return open_runtime(options)
    except (UnusableModel, OSError, ImportError) as error:
        raise GeneratorUnavailable(f"The model {model!r} can't be loaded: {error}") from error


class InProcessGenerator(Generator):
    """Owns its runtime: `close()` ends it."""

    def __init__(self, runtime: "Runtime", salt: Callable[[str, str], str]) -> None:
        self._runtime = runtime
        self._salt = salt

    @property
    def runtime(self) -> "Runtime":
        return self._runtime

    @property
    def model(self) -> str:
        return self._runtime.checkpoint.name

    @property
    def max_tokens(self) -> int:
        return self._runtime.max_tokens

    async def moment(self) -> str:
        return self._runtime.moment()

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        from model_runtime.generators.ask import ask
        from model_runtime.generators.job import Done, Failed, Text

        with _translated():
            asked = await ask(self._runtime, self._question(prompt))
        try:
            while True:
                match await asked.next():
                    case Text(text):
                        yield Delta(text)
                    case Done() as done:
                        yield _finished(done)
                        return
                    case Failed(message):
                        raise GeneratorUnavailable(f"the model could not go on: {message}")
        finally:
            asked.cancel()

    async def warm(self, prompt: Prompt) -> int:
        """Computes ahead what every prompt begins with that goes on after these messages: how many of its tokens.

        0 where something came between. Raises GeneratorUnavailable, InvalidInput, PromptTooLong.
        """
        from model_runtime.generators.ask import warm

        with _translated():
            return await warm(self._runtime, self._question(prompt))

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
        shared = self._runtime.namespaces(self._salt(tenant_id, WHOLE_TENANT))
        return await settled(self._runtime.forget(shared, tenant_id))

    def close(self) -> None:
        self._runtime.close()

    def _question(self, prompt: Prompt) -> "Question":
        from model_runtime.generators.ask import Question
        from model_runtime.generators.sampling import SamplingOptions

        wanted = prompt.sampling
        return Question(
            messages=messages_of(prompt.messages),
            options=SamplingOptions(wanted.temperature, wanted.top_p, wanted.max_tokens, wanted.stop, wanted.seed),
            salt=self._salt(prompt.tenant_id, prompt.share_group),
            policy=policy_of(prompt),
            moment=prompt.prepared,
            tenant=prompt.tenant_id,
            memory_key=prompt.memory_key,
        )

    def _ids(self, messages: Sequence[ChatMessage]) -> list[int]:
        with _translated():
            return self._runtime.chat.ids(messages_of(messages))


@contextmanager
def _translated() -> Iterator[None]:
    """The runtime's errors as the memory knows them."""
    from model_runtime.generators.ask import Busy, TooLong, TooMany
    from model_runtime.generators.chat import UnfitMessages

    try:
        yield
    except TooLong as error:
        raise PromptTooLong(str(error)) from error
    except UnfitMessages as error:
        raise InvalidInput(str(error)) from error
    except TooMany as error:
        raise TooManyAnswers(str(error)) from error
    except Busy as error:
        raise GeneratorUnavailable(str(error)) from error


def messages_of(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """As a runtime takes them. Templates have no place for names, so a user's stands before what was said."""
    return [{"role": message.role, "content": _said(message)} for message in messages]


def _said(message: ChatMessage) -> str:
    # An assistant's name before its replies would teach the model to write it.
    return f"{message.name}: {message.content}" if message.name and message.role == "user" else message.content


def policy_of(prompt: Prompt) -> str:
    """What a runtime calls the prompt's fidelity. Raises UnsupportedParameter for what no runtime of ours serves."""
    if prompt.sampling.logprobs is not None:
        raise UnsupportedParameter("logprobs are not served", param="logprobs")
    return _POLICIES[prompt.fidelity]


async def settled(asked: "Future[T]") -> T:
    """What the runtime's thread answers. Raises GeneratorUnavailable where that ends meanwhile, or its disk fails."""
    try:
        return await asyncio.wrap_future(asked)
    except OSError as error:
        raise GeneratorUnavailable(f"KV could not be deleted: {error}") from error
    except RuntimeError as error:
        raise GeneratorUnavailable(f"the model's thread has ended: {error}") from error


def _finished(done: "Done") -> Finished:
    usage = Usage(
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        cached=CachedTokens(**done.cached),
        prefill_ms=done.prefill_ms,
        restore_ms=done.restore_ms,
        coverage=done.coverage,
        fidelity=Fidelity(done.policy),
    )
    return Finished(Finish(done.reason), usage)
