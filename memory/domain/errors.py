"""What can go wrong, and may it be tried again?

StratamemError
├── InvalidInput            the request can't be served as it is          422
│   ├── InvalidText         control characters, lone surrogates           422
│   ├── InvalidCursor       a page cursor that we did not make            422
│   ├── BudgetTooSmall      max_tokens leaves no room for the query       422
│   ├── UnsupportedParameter  OpenAI's, but it would change the answer    400
│   ├── InvalidValue        a value that the model can't serve            400
│   ├── BeyondTheLog        a fork at a seq that the log has not          422
│   └── PromptTooLong       more tokens than the model reads              400
├── TooLarge                over a published limit                        413
├── Unauthenticated         no key, or a wrong one                        401
│   └── TenantPurged        the tenant is on its way out: nobody comes in 401
├── Forbidden               the key lacks the scope, or acts as another   403
├── NotFound                absent, or of another tenant                  404
│   └── UnknownModel        no model of that name is served here          404
├── Conflict                the state is not what the request expects     409
│   ├── SessionExists
│   ├── EventConflict       same event_id, other content
│   ├── IdempotencyConflict same Idempotency-Key, other request
│   ├── MemoryExists
│   ├── MemorySuperseded    another took its place: the detail says which
│   ├── NotSuperseded       nothing took its place: there is nothing to undo
│   ├── ForkTooDeep         a fork of a fork of a fork …, beyond a limit
│   ├── NothingSaid         nothing is there yet that a summary could be made of
│   ├── NothingKept         no KV of this session is there to be pinned
│   ├── PinBudgetExceeded   more KV than a tenant may pin: the detail says what to do
│   ├── KVElsewhere         the model's engine keeps its KV itself
│   └── SequenceConflict    expected_seq is not the last one
├── PreconditionFailed      If-Match names another version                412
├── QuotaExceeded           as many sessions as the tenant may have        429
├── NoModelConfigured       generation needs a model: the detail says how 503
└── Retryable               the same call may succeed later               503
    ├── RateLimited         so much in a minute or a day: `reset` says when 429
    ├── StorageUnavailable
    ├── ReceiptsUnavailable the folder or the key of receipts can't be used
    ├── BrokerUnavailable
    ├── TooManyStreams      so many follow logs of this process already   429
    ├── IdentityUnavailable the issuer of a token can't be asked
    ├── SessionBusy         other turns of the session take too long      409
    │   ├── TooManyTurns    so many of them wait already                  429
    │   └── TurnLost        silent for too long: another one has begun    409
    ├── EmbedderUnavailable
    ├── GeneratorUnavailable  the model's engine can't answer, or broke off
    │   └── TooManyAnswers  so many of this tenant wait already           429
    ├── SpaceChanged        the tenant is served in another vector space meanwhile
    └── TierUnavailable     one tier can't answer: the others still do
        ├── IndexDamaged    checksum, size or format is wrong: rebuild it
        ├── CodebookDamaged a codec's codebook can't be read: it is trained anew
        └── CodeUnreadable  a code is damaged, or another codebook's

Each error carries the objects it speaks of; `code` is what clients match on, `detail` says what to do.
"""

from memory.domain.quotas import Standing

_MINUTE = 60


class StratamemError(Exception):
    code = "error"
    status = 500

    def __init__(self, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts


class InvalidInput(StratamemError):
    code = "invalid_input"
    status = 422


class InvalidText(InvalidInput):
    code = "invalid_text"


class InvalidCursor(InvalidInput):
    code = "invalid_cursor"


class BudgetTooSmall(InvalidInput):
    code = "budget_too_small"


class BeyondTheLog(InvalidInput):
    code = "beyond_the_log"


class UnsupportedParameter(InvalidInput):
    """`param` names the field, as OpenAI's clients expect it."""

    code = "unsupported_parameter"
    status = 400

    def __init__(self, detail: str, *, param: str) -> None:
        super().__init__(detail, param=param)


class InvalidValue(InvalidInput):
    """`param` names the field; 400 and this code are OpenAI's."""

    code = "invalid_value"
    status = 400

    def __init__(self, detail: str, *, param: str) -> None:
        super().__init__(detail, param=param)


class PromptTooLong(InvalidInput):
    """400 and this code are what OpenAI's clients match on."""

    code = "context_length_exceeded"
    status = 400


class TooLarge(StratamemError):
    code = "too_large"
    status = 413


class Unauthenticated(StratamemError):
    code = "unauthenticated"
    status = 401


class TenantPurged(Unauthenticated):
    code = "tenant_purged"

    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"the tenant '{tenant_id}' is being purged: nobody comes in")


class Forbidden(StratamemError):
    code = "forbidden"
    status = 403


class NotFound(StratamemError):
    code = "not_found"
    status = 404


class UnknownModel(NotFound):
    code = "model_not_found"


class Conflict(StratamemError):
    code = "conflict"
    status = 409


class SessionExists(Conflict):
    code = "session_exists"


class MemoryExists(Conflict):
    code = "memory_exists"


class MemorySuperseded(Conflict):
    code = "memory_superseded"


class NotSuperseded(Conflict):
    code = "not_superseded"


class ForkTooDeep(Conflict):
    code = "fork_too_deep"


class NothingSaid(Conflict):
    code = "nothing_said"


class NothingKept(Conflict):
    code = "no_kv"


class PinBudgetExceeded(Conflict):
    code = "pin_budget_exceeded"


class KVElsewhere(Conflict):
    code = "kv_elsewhere"

    def __init__(self) -> None:
        super().__init__(
            "STRATAMEM_MODEL is the URL of an engine, which keeps its KV itself: ask it, or use a local model"
        )


class EventConflict(Conflict):
    code = "event_conflict"


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class SequenceConflict(Conflict):
    code = "sequence_conflict"


class PreconditionFailed(StratamemError):
    code = "precondition_failed"
    status = 412


class NoModelConfigured(StratamemError):
    """Not retryable: it stays so until the operator sets a model."""

    code = "no_model_configured"
    status = 503

    def __init__(self) -> None:
        super().__init__(
            "No model is configured. Set one and restart: STRATAMEM_MODEL=<folder, hub id or engine's URL>"
        )


class QuotaExceeded(StratamemError):
    """Not retryable: it stays so until something is purged."""

    code = "quota_exceeded"
    status = 429


class Retryable(StratamemError):
    code = "unavailable"
    status = 503


class RateLimited(Retryable):
    code = "rate_limited"
    status = 429

    def __init__(self, standing: Standing) -> None:
        allowed = standing.allowance
        span = "minute" if allowed.seconds == _MINUTE else "day"
        super().__init__(
            f"this {allowed.holder} may use {allowed.amount:,} {allowed.resource} a {span}: wait {standing.reset} s"
        )
        self.standing = standing


class StorageUnavailable(Retryable):
    code = "storage_unavailable"


class ReceiptsUnavailable(Retryable):
    code = "receipts_unavailable"


class BrokerUnavailable(Retryable):
    code = "broker_unavailable"


class TooManyStreams(Retryable):
    code = "too_many_streams"
    status = 429


class IdentityUnavailable(Retryable):
    code = "identity_unavailable"


class SessionBusy(Retryable):
    code = "session_busy"
    status = 409


class TooManyTurns(SessionBusy):
    code = "too_many_turns"
    status = 429


class TurnLost(SessionBusy):
    code = "turn_lost"

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"the turn was silent for too long, and '{session_id}' went on without it: nothing of it is kept; ask again"
        )


class EmbedderUnavailable(Retryable):
    code = "embedder_unavailable"


class GeneratorUnavailable(Retryable):
    code = "generator_unavailable"


class TooManyAnswers(GeneratorUnavailable):
    code = "too_many_answers"
    status = 429


class SpaceChanged(Retryable):
    code = "space_changed"


class TierUnavailable(Retryable):
    code = "tier_unavailable"


class IndexDamaged(TierUnavailable):
    code = "index_damaged"


class CodebookDamaged(TierUnavailable):
    code = "codebook_damaged"


class CodeUnreadable(TierUnavailable):
    code = "code_unreadable"
