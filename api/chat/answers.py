"""What do OpenAI's clients get?"""

import base64
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from api.chat.schemas import EmbeddingsRequest
from api.values import Answer, absent
from memory.domain.generation import Finish, Usage
from memory.ports.models import Vectors


class CachedAnswer(Answer):
    device: int
    host: int
    disk: int


class MemoryUsageAnswer(Answer):
    """Ours: `session_tokens` of the prompt came from the session's log, `recalled` is a number of memories.

    `session_tokens` are the memory's, as in contexts and sessions; those of `usage` are the model's.
    """

    session_tokens: int
    cached: CachedAnswer
    recalled: int
    prefill_ms: float
    restore_ms: float
    coverage: float | None = Field(
        default=None,
        exclude_if=absent,
        description="Only with fidelity sparse, when it was measured: the share of the attention's mass that was read.",
    )
    fidelity: str | None = Field(
        default=None,
        exclude_if=absent,
        description="How exactly the KV is kept: what `auto` chose, too. Absent where the engine keeps it.",
    )


class PromptDetailsAnswer(Answer):
    cached_tokens: int = Field(description="What was really not computed again.")


class UsageAnswer(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetailsAnswer
    memory: MemoryUsageAnswer

    @staticmethod
    def of(usage: Usage, *, session_tokens: int, recalled: int) -> "UsageAnswer":
        return UsageAnswer(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details=PromptDetailsAnswer(cached_tokens=usage.cached.total),
            memory=MemoryUsageAnswer(
                session_tokens=session_tokens,
                cached=CachedAnswer.model_validate(usage.cached),
                recalled=recalled,
                prefill_ms=usage.prefill_ms,
                restore_ms=usage.restore_ms,
                coverage=usage.coverage,
                fidelity=usage.fidelity,
            ),
        )


FinishReason = Literal["stop", "length"]


def _finish_reason(finish: Finish) -> FinishReason:
    """OpenAI has no word for a cancelled answer; "length" is its word for one that is not complete."""
    return "stop" if finish is Finish.STOP else "length"


class AssistantAnswer(Answer):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChoiceAnswer(Answer):
    index: int = 0
    message: AssistantAnswer
    logprobs: None = None
    finish_reason: FinishReason


class ChatAnswer(Answer):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChoiceAnswer]
    usage: UsageAnswer


class DeltaAnswer(Answer):
    role: Literal["assistant"] | None = Field(default=None, exclude_if=absent)
    content: str | None = Field(default=None, exclude_if=absent)


class ChunkChoiceAnswer(Answer):
    index: int = 0
    delta: DeltaAnswer
    logprobs: None = None
    finish_reason: FinishReason | None = None


class ChunkAnswer(Answer):
    """One `data:` of a stream. `usage` only in the last one, and there only with `stream_options.include_usage`."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoiceAnswer]
    usage: UsageAnswer | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Names one answer; makes it whole, or its chunks in the order `opening, text…, ending, usage?`.

    `created`: seconds since 1970.
    """

    id: str
    created: int
    model: str

    def whole(self, text: str, finish: Finish, usage: UsageAnswer) -> ChatAnswer:
        choice = ChoiceAnswer(message=AssistantAnswer(content=text), finish_reason=_finish_reason(finish))
        return ChatAnswer(id=self.id, created=self.created, model=self.model, choices=[choice], usage=usage)

    def opening(self) -> ChunkAnswer:
        return self._chunk(ChunkChoiceAnswer(delta=DeltaAnswer(role="assistant", content="")))

    def text(self, text: str) -> ChunkAnswer:
        return self._chunk(ChunkChoiceAnswer(delta=DeltaAnswer(content=text)))

    def ending(self, finish: Finish) -> ChunkAnswer:
        return self._chunk(ChunkChoiceAnswer(delta=DeltaAnswer(), finish_reason=_finish_reason(finish)))

    def usage(self, usage: UsageAnswer) -> ChunkAnswer:
        return self._chunk(usage=usage)

    def _chunk(self, *choices: ChunkChoiceAnswer, usage: UsageAnswer | None = None) -> ChunkAnswer:
        return ChunkAnswer(id=self.id, created=self.created, model=self.model, choices=list(choices), usage=usage)


class ModelAnswer(Answer):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "stratamem"


class ModelsAnswer(Answer):
    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class EmbeddingAnswer(Answer):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Numbers, or little-endian float32 in base64.")


class EmbeddingsUsageAnswer(Answer):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Answer):
    object: Literal["list"] = "list"
    data: list[EmbeddingAnswer]
    model: str
    usage: EmbeddingsUsageAnswer

    @staticmethod
    def of(vectors: Vectors, request: EmbeddingsRequest, *, model: str, tokens: int) -> "EmbeddingsAnswer":
        packed = request.encoding_format == "base64"
        data = [
            EmbeddingAnswer(
                index=at,
                embedding=base64.b64encode(row.astype("<f4").tobytes()).decode() if packed else row.tolist(),
            )
            for at, row in enumerate(vectors)
        ]
        usage = EmbeddingsUsageAnswer(prompt_tokens=tokens, total_tokens=tokens)
        return EmbeddingsAnswer(data=data, model=model, usage=usage)
