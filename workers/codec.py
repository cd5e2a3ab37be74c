"""Codebooks are trained where they are due, and cold segments get their codes."""

from workers.task import Services


async def codec(services: Services, operation_id: str) -> None:
    await services.codecs.work(operation_id)
