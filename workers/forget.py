"""What goes by a policy is purged, where the request that asked for it did not finish."""

from workers.task import Services


async def forget(services: Services, operation_id: str) -> None:
    await services.policies.finish_forget(operation_id)
