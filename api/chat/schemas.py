"""What do OpenAI's clients send?

A request knows three kinds of OpenAI's fields: those of its model are used, `ignored` ones don't change the answer,
and all others are refused unless they are null or hold a `neutral` value, which clients send without meaning it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from api.values import Body, ClientId, Content, Flag, MaxTokens, MaybeBlank, Name, Text
from memory.domain.errors import InvalidValue, UnsupportedParameter
from memory.domain.events import MAX_EVENTS_PER_APPEND
from memory.domain.generation import ChatMessage, Fidelity, Sampling, TurnRequest
from memory.domain.recall import MAX_TOP_K

MAX_STOPS = 4
MAX_INPUTS = 256
_SHOWN_NAME = 64


class OpenAIBody(BaseModel):
    """A request of OpenAI's. Raises UnsupportedParameter for what would be served differently from what it says."""

    place: ClassVar[str] = ""
    ignored: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_the_unsupported(cls, body: Any) -> Any:
        for name, value in body.items() if isinstance(body, dict) else ():
            if name in cls.model_fields or name in cls.ignored or (name in cls.neutral and value is None):
                continue
            if value not in cls.neutral.get(name, ()):
                raise _unsupported(cls.place + name, cls.neutral.get(name, ()))
        return body


def _unsupported(param: str, neutral: Sequence[Any] = ()) -> UnsupportedParameter:
    shown = param[:_SHOWN_NAME].encode(errors="replace").decode()
    advice = " or ".join(["leave it out", *(f"send {json.dumps(value)}" for value in neutral)])
    return UnsupportedParameter(f"{shown} is not supported here: {advice}.", param=shown)


def _joined(content: Any) -> Any:
    """OpenAI's list of parts as one text, lines apart (as vLLM renders them)."""
    if not isinstance(content, list):
        return content
    if not content:
        raise PydanticCustomError("content_part", "a list without a part")
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise PydanticCustomError("content_part", 'not a part such as {"type": "text", "text": "…"}')
        if part["type"] != "text":
            raise UnsupportedParameter(
                f"Only text is supported here, not parts of type {part['type'][:_SHOWN_NAME]!a}.",
                param="messages.content",
            )
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("content_part", "a part of type text without a text")
    return "\n".join(part["text"] for part in content)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _no_token_ids(texts: Any) -> Any:
    if isinstance(texts, list) and texts and isinstance(texts[0], int | list):
        raise UnsupportedParameter("Only text is supported here, not token ids.", param="input")
    return _listed(texts)


_TEXT = {"type": "string", "minLength": 1}
_SAID = {"type": "string"}
_PART = {"type": "object", "properties": {"type": {"const": "text"}, "text": _SAID}, "required": ["type", "text"]}


def _one_or_list(item: dict[str, Any], **limits: int) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": item, **limits}]})


MessageContent = Annotated[
    MaybeBlank,
    BeforeValidator(_joined),
    WithJsonSchema(
        {
            "anyOf": [_SAID, {"type": "array", "items": _PART, "minItems": 1}, {"type": "null"}],
            "description": "null: nothing, only from an assistant. What is blank is read, and not kept in the log.",
        }
    ),
]
Stop = Annotated[Text, Field(min_length=1, max_length=256)]
Stops = Annotated[
    list[Stop], Field(max_length=MAX_STOPS), BeforeValidator(_listed), _one_or_list(_TEXT, maxItems=MAX_STOPS)
]
Inputs = Annotated[
    list[Content],
    Field(min_length=1, max_length=MAX_INPUTS),
    BeforeValidator(_no_token_ids),
    _one_or_list(_TEXT, minItems=1, maxItems=MAX_INPUTS),
]
Temperature = Annotated[float, Field(strict=True, ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
ModelName = Annotated[Text, Field(min_length=1, max_length=256)]


class SentMessage(OpenAIBody):
    """A message of a request, or one of our answers sent back."""

    place = "messages."
    ignored = frozenset({"annotations"})
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "audio": (),
        "function_call": (),
        "refusal": (),
        "tool_call_id": (),
        "tool_calls": ([],),
    }

    role: Literal["system", "developer", "user", "assistant"]
    content: MessageContent
    name: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_said(cls, body: Any) -> Any:
        if isinstance(body, dict) and body.get("role") == "assistant" and body.get("content", "") is None:
            return body | {"content": ""}
        return body

    def to_domain(self) -> ChatMessage:
        return ChatMessage("system" if self.role == "developer" else self.role, self.content, self.name)


class StreamOptions(OpenAIBody):
    place = "stream_options."
    ignored = frozenset({"include_obfuscation"})

    include_usage: Flag | None = None


class MemoryOptions(Body):
    """Ours: what the memory adds and keeps."""

    max_tokens: MaxTokens | None = Field(default=None, description="The most that window and recall may take.")
    top_k: Annotated[int, Field(strict=True, ge=0, le=MAX_TOP_K)] | None = Field(
        default=None, description="How many memories are considered; 0 recalls none."
    )
    store: Flag = Field(default=True, description="Whether the new messages and the reply are appended to the log.")
    fidelity: Fidelity = Fidelity.EXACT


class ChatRequest(OpenAIBody):
    ignored = frozenset(
        {"user", "metadata", "store", "service_tier", "safety_identifier", "parallel_tool_calls"}
        | {"prompt_cache_key", "prompt_cache_retention"}
    )
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "audio": (),
        "frequency_penalty": (0,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "logit_bias": ({},),
        "logprobs": (False,),
        "modalities": (["text"],),
        "n": (1,),
        "prediction": (),
        "presence_penalty": (0,),
        "reasoning_effort": (),
        "response_format": ({"type": "text"},),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (0,),
        "verbosity": (),
        "web_search_options": (),
    }

    model: ModelName
    messages: Annotated[list[SentMessage], Field(min_length=1, max_length=MAX_EVENTS_PER_APPEND)]
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = Field(default=None, description="Goes before `max_tokens`.")
    stop: Stops | None = None
    seed: Seed | None = None
    memory_key: ClientId | None = Field(default=None, description="The session that is continued. Ours.")
    agent_id: ClientId | None = Field(default=None, description="Who asks; goes before `X-Agent-Id`. Ours.")
    memory: MemoryOptions = MemoryOptions()

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_length(self, reads: int | None) -> None:
        """Raises InvalidValue for an answer of more tokens than the model reads at all."""
        name = "max_completion_tokens" if self.max_completion_tokens else "max_tokens"
        wanted = self.to_sampling().max_tokens
        if wanted is not None and reads is not None and wanted > reads:
            raise InvalidValue(
                f"{name} is {wanted}: the model reads at most {reads} tokens, prompt and answer together", param=name
            )

    def to_messages(self) -> tuple[ChatMessage, ...]:
        return tuple(message.to_domain() for message in self.messages)

    def to_turn(self) -> TurnRequest:
        return TurnRequest(
            model=self.model,
            messages=self.to_messages(),
            sampling=self.to_sampling(),
            memory_key=self.memory_key,
            context_tokens=self.memory.max_tokens,
            top_k=self.memory.top_k,
            store=self.memory.store,
            fidelity=self.memory.fidelity,
        )

    def to_sampling(self) -> Sampling:
        greedy = self.top_p == 0  # only the likeliest token: not every engine takes it as a top_p
        return Sampling(
            temperature=0.0 if greedy else 1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            stop=tuple(self.stop or ()),
            seed=self.seed,
        )


class EmbeddingsRequest(OpenAIBody):
    ignored = frozenset({"user"})

    model: ModelName
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        default=None, description="Only the model's own number is taken."
    )

    def check_dimensions(self, dimensions: int) -> None:
        """Raises UnsupportedParameter unless the vectors have as many as were asked for."""
        if self.dimensions not in (None, dimensions):
            raise _unsupported("dimensions", (dimensions,))
