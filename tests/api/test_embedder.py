"""The change of the embedding model, as an administrator sees it and begins it."""

from typing import Any

import httpx

from memory.domain.errors import Conflict
from memory.domain.operations import Operation, OperationKind, OperationState, Progress
from tests.api.conftest import NOON


def test_it_is_shown_which_model_serves_and_that_nothing_is_left(service: str) -> None:
    with httpx.Client(base_url=service) as http:
        shown = http.get("/v1/admin/embedder").json()
        assert shown["served_here"] == shown["configured"]
        assert shown["configured"].startswith("all-MiniLM-L6-v2:384:")
        assert (shown["items_left"], shown["operation_id"], shown["words_only"]) == (0, None, None)
        answer = http.post("/v1/admin/embedder/reembed")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert "STRATAMEM_EMBEDDER" in answer.json()["detail"]


def test_who_begins_it_gets_the_operation(client: Any, container: Any) -> None:
    container.reembedding.answers["request"] = Operation(
        operation_id="op1",
        tenant_id="default",
        kind=OperationKind.REEMBED,
        session_key=None,
        session_id=None,
        state=OperationState.QUEUED,
        progress=Progress(0, 0, "items"),
        attempts=0,
        created_at=NOON,
        started_at=None,
        finished_at=None,
    )
    answer = client.post("/v1/admin/embedder/reembed")
    assert (answer.status_code, answer.headers["Location"]) == (202, "/v1/operations/op1")
    assert answer.json()["kind"] == "reembed"
    container.reembedding.answers["request"] = Conflict("it has it")
    assert client.post("/v1/admin/embedder/reembed").status_code == 409
