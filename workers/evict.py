"""The semantic tier takes in what is new and lets go of what no longer fits."""

from workers.task import Services


async def evict(services: Services, operation_id: str) -> None:
    await services.consolidation.evict(operation_id)
