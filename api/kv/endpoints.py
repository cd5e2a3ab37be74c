"""See, pin, bring up, lay to rest and drop the KV of a session."""

from fastapi import APIRouter

from api.deps import App, Reader, SessionId, Writer
from api.errors import problems
from api.kv.schemas import DropAnswer, KVAnswer, PinKV, PrefetchAnswer, SessionKVAnswer, SuspendAnswer

router = APIRouter(prefix="/v1/sessions/{session_id}/kv", tags=["kv"])


@router.get("", summary="What is kept of a session's KV", responses=problems(404, 409))
async def report(app: App, caller: Reader, session_id: SessionId) -> KVAnswer:
    return KVAnswer.of(session_id, await app.kv.report(caller, session_id))


@router.post("/pin", summary="Keep a session's KV for a while", responses=problems(404, 409))
async def pin(app: App, caller: Writer, session_id: SessionId, body: PinKV) -> SessionKVAnswer:
    return SessionKVAnswer.model_validate(await app.kv.pin(caller, session_id, body.ttl_seconds))


@router.post("/prefetch", summary="Bring a session's KV to the device", responses=problems(404, 409))
async def prefetch(app: App, caller: Writer, session_id: SessionId) -> PrefetchAnswer:
    return PrefetchAnswer.model_validate(await app.kv.prefetch(caller, session_id))


@router.post("/suspend", summary="Move a session's KV off the device", responses=problems(404, 409))
async def suspend(app: App, caller: Writer, session_id: SessionId) -> SuspendAnswer:
    return SuspendAnswer.model_validate(await app.kv.suspend(caller, session_id))


@router.delete("", summary="Drop a session's KV", responses=problems(404, 409))
async def drop(app: App, caller: Writer, session_id: SessionId) -> DropAnswer:
    return DropAnswer.model_validate(await app.kv.drop(caller, session_id))
