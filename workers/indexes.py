"""An index that all processes share is rebuilt or verified."""

from workers.task import Services


async def indexes(services: Services, operation_id: str) -> None:
    await services.indexes.run(operation_id)
