"""Asynchronous work as clients see it."""

from datetime import datetime
from typing import Any

from pydantic import Field, model_validator

from api.values import Answer, absent
from memory.domain.operations import OperationKind, OperationState


class ProgressAnswer(Answer):
    done: int
    total: int
    unit: str


class OperationAnswer(Answer):
    operation_id: str
    kind: OperationKind
    session_id: str | None
    state: OperationState
    progress: ProgressAnswer
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None = Field(default=None, exclude_if=absent)
    result: dict[str, Any] | None = Field(default=None, exclude_if=absent, description="Once it has succeeded.")

    @model_validator(mode="after")
    def _without_notes(self) -> "OperationAnswer":
        """Until then it is what the workers note for themselves."""
        if self.state is not OperationState.SUCCEEDED:
            self.result = None
        return self
