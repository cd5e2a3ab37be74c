"""A purge is finished: every store is clean and the receipt is written."""

from workers.task import Services


async def purge(services: Services, operation_id: str) -> None:
    await services.forgetting.finish_purge(operation_id)
