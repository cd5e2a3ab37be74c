"""A tenant gets the configured embedding model: all its texts are embedded anew, then it is moved."""

from workers.task import Services


async def reembed(services: Services, operation_id: str) -> None:
    await services.reembedding.reembed(operation_id)
