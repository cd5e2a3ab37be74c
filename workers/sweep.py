"""What was promised and not done is sent again, and what is older than it has to be kept is forgotten."""

from workers.task import Services


async def sweep(services: Services) -> None:
    await services.upkeep.sweep()


async def upkeep(services: Services) -> None:
    await services.upkeep.tidy()
    await services.codecs.plan()


async def expire(services: Services) -> None:
    await services.upkeep.expire()
