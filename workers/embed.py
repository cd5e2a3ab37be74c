"""Segments get their vectors."""

from workers.task import Services


async def embed(services: Services, operation_id: str) -> None:
    await services.consolidation.embed(operation_id)
