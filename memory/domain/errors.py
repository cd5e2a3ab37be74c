"""What can go wrong, and may it be tried again?

StratamemError
├── InvalidInput            the request can't be served as it is          422
│   ├── InvalidText         control characters, lone surrogates           422
│   ├── InvalidCursor       a page cursor that we did not make            422
│   └── BudgetTooSmall      max_tokens leaves no room for the query       422
├── TooLarge                over a published limit                        413
├── Unauthenticated         no key, or a wrong one                        401
├── Forbidden               the key lacks the scope, or acts as another   403
├── NotFound                absent, or of another tenant                  404
├── Conflict                the state is not what the request expects     409
│   ├── SessionExists
│   ├── EventConflict       same event_id, other content
│   ├── IdempotencyConflict same Idempotency-Key, other request
│   ├── MemoryExists
│   └── SequenceConflict    expected_seq is not the last one
├── PreconditionFailed      If-Match names another version                412
└── Retryable               the same call may succeed later               503
    ├── StorageUnavailable
    ├── BrokerUnavailable
    ├── EmbedderUnavailable
    └── TierUnavailable     one tier can't answer: the others still do
        └── IndexDamaged    checksum, size or format is wrong: rebuild it

Each error carries the objects it speaks of; `code` is what clients match on, `detail` says what to do.
"""


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


class TooLarge(StratamemError):
    code = "too_large"
    status = 413


class Unauthenticated(StratamemError):
    code = "unauthenticated"
    status = 401


class Forbidden(StratamemError):
    code = "forbidden"
    status = 403


class NotFound(StratamemError):
    code = "not_found"
    status = 404


class Conflict(StratamemError):
    code = "conflict"
    status = 409


class SessionExists(Conflict):
    code = "session_exists"


class MemoryExists(Conflict):
    code = "memory_exists"


class EventConflict(Conflict):
    code = "event_conflict"


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class SequenceConflict(Conflict):
    code = "sequence_conflict"


class PreconditionFailed(StratamemError):
    code = "precondition_failed"
    status = 412


class Retryable(StratamemError):
    code = "unavailable"
    status = 503


class StorageUnavailable(Retryable):
    code = "storage_unavailable"


class BrokerUnavailable(Retryable):
    code = "broker_unavailable"


class EmbedderUnavailable(Retryable):
    code = "embedder_unavailable"


class TierUnavailable(Retryable):
    code = "tier_unavailable"


class IndexDamaged(TierUnavailable):
    code = "index_damaged"
