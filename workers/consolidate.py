"""New events of a session become segments."""

from workers.task import Services


async def consolidate(services: Services, operation_id: str) -> None:
    await services.consolidation.consolidate(operation_id)
