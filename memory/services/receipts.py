"""What proves a purge? Its receipt is signed, chained to the one before it, and kept where no purge reaches."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from memory.domain.errors import NotFound
from memory.domain.operations import Operation
from memory.domain.principals import Principal
from memory.domain.receipts import BEGINNING, SignedReceipt, previous_of, written
from memory.ports.receipts import Notary
from memory.ports.storage import Storage, UnitOfWork

_PAGE = 500


class Receipts:
    def __init__(self, storage: Storage, notary: Notary) -> None:
        self._storage = storage
        self._notary = notary

    async def issue(
        self, tx: UnitOfWork, operation: Operation, facts: Mapping[str, Any], now: datetime
    ) -> SignedReceipt:
        """`facts`: what was purged, by ids and counts. On disk before the unit of work commits.

        Raises ReceiptsUnavailable.
        """
        last = await tx.receipts.last()
        number = 1 if last is None else last.number + 1
        content = {
            "receipt_id": operation.operation_id,
            "number": number,
            "previous": previous_of(last),
            "tenant_id": operation.tenant_id,
            "asked_at": _moment(operation.created_at),
            "at": _moment(now),
            "verified": True,
            **facts,
        }
        statement = written(content)
        receipt = await asyncio.to_thread(self._signed, operation, number, statement, now)
        await tx.receipts.add(receipt)
        return receipt

    async def get(self, principal: Principal, receipt_id: str) -> SignedReceipt:
        """Raises NotFound, also for a purge of something out of the caller's reach."""
        found = await self.find(receipt_id)
        if found is None or found.tenant_id != principal.tenant_id or not _reaches(principal, found):
            raise NotFound(f"there is no receipt '{receipt_id}'")
        return found

    async def find(self, receipt_id: str) -> SignedReceipt | None:
        """Whosever it is."""
        async with self._storage.read() as tx:
            return await tx.receipts.get(receipt_id)

    async def page(self, tenant_id: str | None, *, after: int, limit: int) -> list[SignedReceipt]:
        """By number. `tenant_id` None: of all tenants."""
        async with self._storage.read() as tx:
            return await tx.receipts.page(tenant_id, after=after, limit=limit)

    async def public_key(self) -> str:
        return await asyncio.to_thread(self._notary.public_key)

    async def problems(self) -> list[str]:
        """What is wrong with the chain and with this process's folder, in words; everything is looked at."""
        found: list[str] = []
        stored: dict[str, str] = {}
        previous, number = BEGINNING, 0
        while page := await self.page(None, after=number, limit=_PAGE):
            for receipt in page:
                found += self._wrong(receipt, number + 1, previous)
                previous, number = receipt.digest, receipt.number
                stored[receipt.receipt_id] = receipt.digest
        for kept in await asyncio.to_thread(self._notary.kept):
            if kept.receipt_id not in stored:
                found.append(f"receipt {kept.receipt_id} is in the folder and not in the database")
            elif stored[kept.receipt_id] != kept.digest:
                found.append(f"receipt {kept.receipt_id} says something else in the folder than in the database")
        return found

    def _wrong(self, receipt: SignedReceipt, number: int, previous: str) -> list[str]:
        found = []
        if receipt.number != number:
            found.append(
                f"before receipt {receipt.receipt_id} the numbers {number} to {receipt.number - 1} are missing"
            )
        elif receipt.content["previous"] != previous:
            found.append(f"receipt {receipt.receipt_id} does not follow the one before it")
        if not self._notary.valid(receipt):
            found.append(f"the signature of receipt {receipt.receipt_id} is wrong")
        return found

    def _signed(self, operation: Operation, number: int, statement: str, now: datetime) -> SignedReceipt:
        receipt = SignedReceipt(
            number=number,
            receipt_id=operation.operation_id,
            tenant_id=operation.tenant_id,
            statement=statement,
            signature=self._notary.sign(statement),
            public_key=self._notary.public_key(),
            at=now,
        )
        self._notary.keep(receipt)
        return receipt


def _reaches(principal: Principal, receipt: SignedReceipt) -> bool:
    """A key of some sessions sees the receipts of what was purged of those."""
    named = receipt.content["what"].get("session_ids", [])
    return principal.session_ids is None or (bool(named) and all(map(principal.may_reach, named)))


def _moment(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
