"""What do a model runtime and those who ask it say to each other? JSON, lines of JSON, and raw vectors."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_runtime.kv.reports import Described, Dropped, Moved, NotPinned, Prefetched, Report, Suspended

MOST_TEXTS = 1_024
"""Of one request to embed."""
SPACE_HEADER = "X-Vector-Space"
"""Of an answer to embed: little-endian float32 [texts, dimensions], in that space."""
MODEL_HEADER = "X-Model"
"""Of a request: the model that its prompt was put together for. Another one is not asked by mistake."""

_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Salt = Annotated[str, Field(min_length=1, max_length=128)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WireMessage(_Wire):
    role: str = Field(min_length=1, max_length=32)
    content: str


class CountRequest(_Wire):
    messages: list[WireMessage]


class CountAnswer(_Wire):
    tokens: int


class GenerateRequest(_Wire):
    """`salt`: made by the caller, the same for those who may share KV. `moment`: from `/v1/moment`, asked for before
    the prompt was put together. `tenant`: whose share it takes. `memory_key`: the session that has the KV from then on.
    """

    messages: list[WireMessage] = Field(min_length=1)
    temperature: float = Field(default=1.0, ge=0, le=100)
    top_p: float = Field(default=1.0, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: list[Annotated[str, Field(min_length=1, max_length=1_024)]] = Field(default=[], max_length=16)
    seed: int | None = None
    salt: _Salt
    policy: str = Field(max_length=32)
    moment: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}:[0-9]{1,12}(\.[0-9]{1,12})?$")
    tenant: _Name
    memory_key: _Name | None = None


class TextLine(_Wire):
    """The next piece of the answer. A blank line between two lines says that the answer is still being made."""

    text: str


class DoneLine(_Wire):
    reason: Literal["stop", "length", "cancelled"]
    prompt_tokens: int
    completion_tokens: int
    cached: dict[str, int]
    prefill_ms: float
    restore_ms: float
    coverage: float | None = None
    policy: str


class FailedLine(_Wire):
    failed: str


class ForgetRequest(_Wire):
    """`tenant`: with all of its share groups, whatever their salts were."""

    salts: list[_Salt] = Field(min_length=1, max_length=1_000)
    tenant: _Name | None = None


class ForgetAnswer(_Wire):
    blocks: int


class WarmAnswer(_Wire):
    """Tokens that were computed."""

    computed: int


class KVRequest(_Wire):
    """`what`: one of `kv.reports.QUESTIONS`. `until`: of a pin, seconds since 1970; None: it ends."""

    what: Literal["report", "pin", "prefetch", "suspend", "drop", "moves"]
    tenant: _Name
    memory_key: _Name
    until: float | None = Field(default=None, ge=0, le=1e11, allow_inf_nan=False)


class KVAnswer(_Wire):
    """One of them, as was asked; none where nothing is kept of the session."""

    described: Described | None = None
    not_pinned: NotPinned | None = None
    prefetched: Prefetched | None = None
    suspended: Suspended | None = None
    dropped: Dropped | None = None
    moved: Moved | None = None

    @property
    def report(self) -> Report | None:
        return self.described or self.not_pinned or self.prefetched or self.suspended or self.dropped or self.moved


class MomentAnswer(_Wire):
    moment: str


class EmbedRequest(_Wire):
    texts: list[str] = Field(max_length=MOST_TEXTS)


class ModelFacts(_Wire):
    name: str
    max_tokens: int


class EmbedderFacts(_Wire):
    """`tokenizer`: the text of its tokenizer.json, so that a caller counts tokens by itself."""

    space: str
    dimensions: int
    tokenizer: str


class Facts(_Wire):
    """`model`: None where nothing is generated."""

    model: ModelFacts | None
    embedder: EmbedderFacts
