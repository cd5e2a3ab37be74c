"""A receipt as whoever wants to check it reads it."""

from datetime import datetime
from typing import Any

from pydantic import Field

from api.values import Answer
from memory.domain.receipts import SignedReceipt


class SignedReceiptAnswer(Answer):
    receipt_id: str
    number: int = Field(description="Its place in the chain of all receipts of the database.")
    at: datetime
    content: dict[str, Any] = Field(description="What the statement says: ids, counts, times, the previous receipt.")
    statement: str = Field(description="The JSON that was signed, letter by letter.")
    signature: str = Field(description="Ed25519 over the statement's UTF-8, in base64.")
    public_key: str = Field(description="In base64; `stratamem receipts key` shows the one of a process's folder.")
    digest: str = Field(description="SHA-256 of statement, line feed and signature: the next receipt's `previous`.")

    @classmethod
    def of(cls, receipt: SignedReceipt) -> "SignedReceiptAnswer":
        return cls.model_validate(receipt)
