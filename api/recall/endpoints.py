"""Recall: ranked results from all tiers."""

import time

from fastapi import APIRouter, Response

from api.deps import App, Reader, Trailing
from api.errors import problems
from api.metrics import DEGRADED
from api.recall.schemas import RecallAnswer, RecallQuery
from memory.services import access

router = APIRouter(prefix="/v1", tags=["recall"])


@router.post("/recall", summary="Recall what is relevant", response_model=RecallAnswer, responses=problems(404))
async def recall(app: App, caller: Reader, body: RecallQuery, trail: Trailing) -> Response:
    begun = time.perf_counter()
    principal = access.act_as(caller, body.agent_id)
    trail.about(*(body.session_ids or ()), by=principal)
    recalled = await app.recall.recall(principal, body.to_domain())
    for tier in recalled.degraded:
        DEGRADED.labels(tier.tier).inc()
    answer = RecallAnswer.of(recalled, time.perf_counter() - begun)
    # Written here: FastAPI would check our own answer once more, and take longer for it than for writing it.
    return Response(answer.model_dump_json(), media_type="application/json")
