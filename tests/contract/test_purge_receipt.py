"""A receipt says `verified` only when it is true."""

from memory.adapters.jobs.recording import RecordingQueue
from memory.adapters.sql import leftovers
from memory.domain.operations import Operation, OperationState, Receipt
from memory.domain.principals import Principal
from memory.services import erasure
from memory.services.tasks import PURGE
from memory.testing import SettableClock
from tests.services import TENANT, add_events, add_session, forgetting


async def test_a_purge_is_not_verified_while_the_text_is_in_the_write_ahead_log(sqlite, monkeypatch):
    monkeypatch.setattr(erasure, "_PATIENCE", 0.1)
    storage = sqlite.open()
    _, service = forgetting(storage, RecordingQueue(), SettableClock())

    def left():
        return [file.name for file in sqlite.file.parent.iterdir() if b"xyzzy-marker" in file.read_bytes()]

    async with storage.write() as tx:
        await add_events(tx, await add_session(tx), "xyzzy-marker " * 500)
    assert left()
    async with storage.read() as tx:  # a rebuild, a backup
        await tx.tenants.ids()
        pending = await service.purge_session(Principal(TENANT), "s")
        assert left()
        assert isinstance(pending, Operation)
        assert "not clean yet" in (pending.error or "")
    await service.finish_purge(pending.operation_id)
    async with storage.read() as tx:
        done = await tx.operations.by_id(pending.operation_id)
    assert done is not None
    assert done.state is OperationState.SUCCEEDED
    assert not left()


async def test_a_file_that_takes_long_to_clean_is_left_to_a_worker(sqlite, monkeypatch):
    monkeypatch.setattr(erasure, "_PATIENCE", 0.1)
    monkeypatch.setattr(leftovers, "_BYTES_A_SECOND", 1)
    storage, jobs = sqlite.open(), RecordingQueue()
    _, service = forgetting(storage, jobs, SettableClock())
    async with storage.write() as tx:
        await add_events(tx, await add_session(tx), "hello")
    pending = await service.purge_session(Principal(TENANT), "s")
    assert isinstance(pending, Operation)
    assert "a worker" in (pending.error or "")
    assert jobs.sent == [(PURGE, (pending.operation_id,))]
    await service.finish_purge(pending.operation_id)
    async with storage.read() as tx:
        done = await tx.operations.by_id(pending.operation_id)
    assert done is not None
    assert done.state is OperationState.SUCCEEDED


async def test_a_purge_that_nothing_holds_up_answers_with_its_receipt(storage):
    _, service = forgetting(storage, RecordingQueue(), SettableClock())
    async with storage.write() as tx:
        await add_events(tx, await add_session(tx), "hello")
    receipt = await service.purge_session(Principal(TENANT), "s")
    assert isinstance(receipt, Receipt)
    assert receipt.verified
    assert receipt.purged["events"] == 1
