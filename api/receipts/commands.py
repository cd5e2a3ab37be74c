"""`stratamem receipts`: read and check receipts of purges, on the machine of the database."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Column, Table

from api.start import explained, prepare_data_folder
from api.terminal import AsJson, DataDir, fail, one_line_errors, out, settings_of

if TYPE_CHECKING:
    from memory.domain.receipts import SignedReceipt
    from memory.services.receipts import Receipts

app = typer.Typer(no_args_is_help=True, help="Receipts of purges: signed, in a chain, apart from the data.")

Answered = TypeVar("Answered")

_PAGE = 500
_ID = 36


@app.command()
def key(data_dir: DataDir = None) -> None:
    """Print the public key that this data folder's processes sign with (Ed25519, base64)."""
    typer.echo(_ask(data_dir, lambda receipts: receipts.public_key()))


@app.command("list")
def show_all(
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List receipts, oldest first."""
    found = _ask(data_dir, lambda receipts: _all(receipts, tenant))
    if as_json:
        typer.echo(json.dumps({"items": [_shown(receipt) for receipt in found]}))
        return
    whole = Column("receipt", no_wrap=True, min_width=_ID)
    table = Table("number", whole, "tenant", "what", "at", box=None, pad_edge=False)
    for receipt in found:
        moment = receipt.at.strftime("%Y-%m-%d %H:%M UTC")
        table.add_row(
            str(receipt.number), receipt.receipt_id, receipt.tenant_id, receipt.content["what"]["kind"], moment
        )
    out.print(table, markup=False)


@app.command()
def show(
    receipt: Annotated[str, typer.Argument(help="The receipt_id, which is that of the purge's operation.")],
    data_dir: DataDir = None,
) -> None:
    """Print a receipt as JSON."""
    found = _ask(data_dir, lambda receipts: receipts.find(receipt))
    if found is None:
        fail(f"there is no receipt '{receipt}'", 1)
    typer.echo(json.dumps(_shown(found), indent=1))


@app.command()
def check(data_dir: DataDir = None) -> None:
    """Check every signature and the chain, and compare the database with this folder's files."""
    problems = _ask(data_dir, lambda receipts: receipts.problems())
    for problem in problems:
        out.print(problem, markup=False)
    if problems:
        raise typer.Exit(1)
    out.print("all receipts are there, signed, and follow each other", markup=False)


def _ask(data_dir: Path | None, ask: "Callable[[Receipts], Awaitable[Answered]]") -> Answered:
    settings = settings_of(data_dir=data_dir)

    async def opened() -> Answered:
        from memory.bootstrap.purging import operator

        async with operator(settings) as reached:
            return await ask(reached.receipts)

    with one_line_errors():
        prepare_data_folder(settings)
        with explained():
            return asyncio.run(opened())


async def _all(receipts: "Receipts", tenant_id: str | None) -> "list[SignedReceipt]":
    found: list[SignedReceipt] = []
    while page := await receipts.page(tenant_id, after=found[-1].number if found else 0, limit=_PAGE):
        found += page
    return found


def _shown(receipt: "SignedReceipt") -> dict[str, object]:
    from api.receipts.schemas import SignedReceiptAnswer

    return {"tenant_id": receipt.tenant_id, **SignedReceiptAnswer.of(receipt).model_dump(mode="json")}
