"""What was purged, and who signed for it?"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from api.auth import Requires
from api.deps import App
from api.errors import problems
from api.receipts.schemas import SignedReceiptAnswer
from api.values import CLIENT_ID_PATTERN
from memory.domain.principals import KeyScope, Principal

router = APIRouter(prefix="/v1/receipts", tags=["receipts"])

ReceiptId = Annotated[str, Path(pattern=CLIENT_ID_PATTERN)]
Witness = Annotated[Principal, Depends(Requires(KeyScope.READ, KeyScope.ADMIN))]


@router.get("/{receipt_id}", summary="Read the signed receipt of a purge", responses=problems(404))
async def get(app: App, caller: Witness, receipt_id: ReceiptId) -> SignedReceiptAnswer:
    """Its id is that of the purge's operation; it is there as soon as the purge is verified."""
    return SignedReceiptAnswer.of(await app.receipts.get(caller, receipt_id))
