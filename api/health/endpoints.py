"""Probes, metrics and the version: open to all, they tell nothing of any tenant."""

from functools import partial

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.deps import App
from api.health.schemas import Live, Ready, Version
from api.metrics import RuntimeMetrics
from api.version import VERSION

router = APIRouter(tags=["health"])
_probe = partial(router.head, include_in_schema=False)
"""Balancers and monitors ask without a body; the server leaves it out."""


@_probe("/health/live")
@router.get("/health/live", summary="The process answers")
async def live() -> Live:
    return Live()


@_probe("/health/ready")
@router.get(
    "/health/ready",
    summary="What works, and what does not",
    responses={503: {"model": Ready, "description": "It can't serve: the database is down"}},
)
async def ready(app: App, response: Response) -> Ready:
    report = await app.health.check()
    response.status_code = 200 if report.serving else 503
    return Ready.model_validate(report)


@_probe("/metrics")
@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(app: App) -> Response:
    runtime = app.generation.stats()
    text = generate_latest() + (b"" if runtime is None else generate_latest(RuntimeMetrics(runtime)))
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@_probe("/version")
@router.get("/version", summary="Which version this is")
async def version() -> Version:
    return Version(version=VERSION)
