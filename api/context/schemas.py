"""What an agent gets to read."""

from pydantic import Field

from api.recall.schemas import DegradedAnswer, ResultAnswer, TopK
from api.values import Answer, Body, ClientId, Content, Flag, MaxTokens, absent
from memory.domain.context import Context, ContextFormat, ContextRequest, Include


class IncludeParts(Body):
    window: Flag = True
    summary: Flag = True
    recall: Flag = True

    def to_domain(self) -> Include:
        return Include(window=self.window, summary=self.summary, recall=self.recall)


class ContextQuery(Body):
    query: Content | None = None
    max_tokens: MaxTokens
    agent_id: ClientId | None = Field(default=None, description="Who reads; goes before `X-Agent-Id`.")
    top_k: TopK = 20
    include: IncludeParts = IncludeParts()
    format: ContextFormat = ContextFormat.MESSAGES

    def to_domain(self) -> ContextRequest:
        return ContextRequest(
            max_tokens=self.max_tokens,
            query=self.query,
            top_k=self.top_k,
            include=self.include.to_domain(),
            format=self.format,
        )


class MessageAnswer(Answer):
    role: str
    content: str
    name: str | None = Field(default=None, exclude_if=absent)


class TokensAnswer(Answer):
    total: int
    window: int
    summary: int
    recall: int


class CacheAnswer(Answer):
    """The part that a later context begins with, until the next compaction."""

    prefix_tokens: int
    prefix_fingerprint: str


class ContextAnswer(Answer):
    """`text` only with the format `text`, where `messages` is empty."""

    messages: list[MessageAnswer]
    text: str | None = Field(default=None, exclude_if=absent)
    sources: list[ResultAnswer]
    tokens: TokensAnswer
    cache: CacheAnswer
    degraded: list[DegradedAnswer]

    @staticmethod
    def of(context: Context) -> "ContextAnswer":
        return ContextAnswer(
            messages=[MessageAnswer.model_validate(message) for message in context.messages],
            text=context.text,
            sources=[ResultAnswer.of(source) for source in context.sources],
            tokens=TokensAnswer.model_validate(context.tokens),
            cache=CacheAnswer.model_validate(context.cache),
            degraded=[DegradedAnswer.model_validate(tier) for tier in context.degraded],
        )
