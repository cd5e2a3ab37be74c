"""Where are the receipts of purges kept, apart from the data, and who signs them?"""

from typing import Protocol

from memory.domain.receipts import SignedReceipt


class ReceiptRepository(Protocol):
    async def last(self) -> SignedReceipt | None:
        """The end of the chain; nobody else adds to it until the unit of work ends."""

    async def add(self, receipt: SignedReceipt) -> None: ...

    async def get(self, receipt_id: str) -> SignedReceipt | None: ...

    async def page(self, tenant_id: str | None, *, after: int, limit: int) -> list[SignedReceipt]:
        """By number. `tenant_id` None: of all tenants."""


class Notary(Protocol):
    """Signs, and keeps what was signed in a folder of its own. All raise ReceiptsUnavailable."""

    def public_key(self) -> str: ...

    def sign(self, statement: str) -> str: ...

    def valid(self, receipt: SignedReceipt) -> bool:
        """Whether the statement was signed with the key that the receipt names."""

    def keep(self, receipt: SignedReceipt) -> None:
        """On disk when this returns."""

    def kept(self) -> list[SignedReceipt]:
        """Those in this process's folder."""
