"""How is a purge answered? 200 with the receipt, or 202 with the operation whose result it will be."""

from datetime import datetime
from typing import Any

from pydantic import Field
from starlette.responses import Response

from api.operations.schemas import OperationAnswer
from api.values import Answer, absent
from memory.domain.operations import Operation, Receipt

LOCATION = {"description": "Where to ask for the operation", "schema": {"type": "string"}}


class ReceiptAnswer(Answer):
    """What was removed, store by store. `verified`: every live index has confirmed it."""

    purged: dict[str, int]
    verified: bool
    at: datetime
    kept: dict[str, int] = Field(default={}, exclude_if=lambda kept: not kept, description="What others still need.")
    kept_for: list[str] = Field(
        default=[], exclude_if=lambda kept: not kept, description="The forks that share it, as far as you reach them."
    )
    receipt_id: str | None = Field(
        default=None, exclude_if=absent, description="Of `GET /v1/receipts/{receipt_id}`, which says what was signed."
    )
    signature: str | None = Field(default=None, exclude_if=absent, description="Ed25519, in base64.")


ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": OperationAnswer,
        "description": "An index still has to confirm; the receipt will have the operation's id, and is its result",
        "headers": {"Location": LOCATION},
    }
}


def answer(outcome: Receipt | Operation, response: Response) -> ReceiptAnswer | OperationAnswer:
    if isinstance(outcome, Receipt):
        return ReceiptAnswer.model_validate(outcome)
    response.status_code = 202
    response.headers["Location"] = f"/v1/operations/{outcome.operation_id}"
    return OperationAnswer.model_validate(outcome)
