"""`stratamem worker` with services that write down their calls. Arguments: broker, data folder, queue, visibility."""

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

from memory.adapters.jobs.settings import JobSettings
from memory.settings import Settings
from workers import main

broker, data_dir, queue, visibility = sys.argv[1:]
log = Path(data_dir) / "calls"


class Services:
    def __init__(self):
        self.consolidation = self.forgetting = self.indexes = self.codecs = self.policies = self
        self.reembedding = self.upkeep = self

    async def consolidate(self, operation_id):
        note(operation_id)

    async def embed(self, operation_id):
        """Works for a minute on its first try."""
        first = operation_id not in log.read_text()
        note(operation_id)
        if first:
            await asyncio.sleep(60)

    async def evict(self, operation_id):
        """Sits in native code."""
        note(operation_id)
        await asyncio.to_thread(time.sleep, 60)

    async def sweep(self):
        note("sweep")

    async def tidy(self):
        note("tidy")

    async def plan(self):
        note("plan")


def note(line):
    with log.open("a") as file:
        file.write(f"{line}\n")


@asynccontextmanager
async def open_services():
    yield Services()
    note("closed")


main.run(
    Settings(
        data_dir=Path(data_dir),
        broker_url=broker,
        jobs=JobSettings(queue=queue, visibility=float(visibility)),
        _env_file=None,
    ),
    open_services=open_services,
)
