"""`stratamem tenants`: list all tenants of the database, and purge one, on the machine of the database."""

import asyncio
import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from api.start import explained, prepare_data_folder
from api.terminal import AsJson, DataDir, err, fail, one_line_errors, out, settings_of
from memory.domain.errors import NotFound
from memory.domain.operations import Receipt
from memory.settings import Settings

if TYPE_CHECKING:
    from memory.services.tenants import TenantView

app = typer.Typer(no_args_is_help=True, help="Tenants of the database, and their end.")

_PAGE = 500
_LOOK_EVERY = 1.0


@app.command("list")
def show(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List all tenants with their figures, by name."""
    from api.tenants.schemas import TenantAnswer

    settings = settings_of(data_dir=data_dir)
    with one_line_errors():
        prepare_data_folder(settings)
        with explained():
            found = [TenantAnswer.of(view) for view in asyncio.run(_all(settings))]
    if as_json:
        typer.echo(json.dumps({"items": [tenant.model_dump(mode="json") for tenant in found]}))
        return
    columns = ("sessions", "events", "tokens", "memories", "keys")
    table = Table("tenant", *columns, "since", "state", box=None, pad_edge=False)
    for tenant in found:
        figures = [f"{getattr(tenant, name):,}" for name in columns]
        table.add_row(tenant.tenant_id, *figures, _day(tenant.created_at), "is being purged" if tenant.purging else "")
    out.print(table, markup=False)


@app.command()
def purge(
    tenant: Annotated[str, typer.Argument(help="The tenant that goes, with all that is kept of it.")],
    yes: Annotated[bool, typer.Option("--yes", help="It is meant: nothing of it comes back.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Purge a tenant for good, and print the receipt. A purge that was stopped is taken up again by the workers."""
    if not yes:
        fail(f"all that '{tenant}' has would be gone for good; say --yes if you mean it", 2)
    settings = settings_of(data_dir=data_dir)
    with one_line_errors():
        prepare_data_folder(settings)
        with explained():
            receipt = asyncio.run(_purge(settings, tenant))
    if receipt is None:
        fail(f"there is no tenant '{tenant}'", 1)
    if as_json:
        from api.purges import ReceiptAnswer

        typer.echo(ReceiptAnswer.model_validate(receipt).model_dump_json())
        return
    gone = ", ".join(f"{count:,} {kind}" for kind, count in sorted(receipt.purged.items()) if count) or "nothing"
    out.print(f"'{tenant}' is gone: {gone}", markup=False)
    out.print(f"receipt {receipt.receipt_id}", markup=False)


async def _all(settings: Settings) -> "list[TenantView]":
    from memory.bootstrap.purging import operator

    found: list[TenantView] = []
    async with operator(settings) as reached:
        while page := await reached.tenants.page(after=found[-1].tenant.tenant_id if found else None, limit=_PAGE):
            found += page
    return found


async def _purge(settings: Settings, tenant_id: str) -> Receipt | None:
    """None: there is no such tenant. One that is being purged already is gone on with."""
    from memory.bootstrap.purging import operator

    async with operator(settings) as reached:
        try:
            outcome = await reached.forgetting.purge_tenant(tenant_id)
        except NotFound:
            if (going := await reached.tenants.purge_of(tenant_id)) is None:
                return None
            outcome = going
        while not isinstance(outcome, Receipt):
            err.print(f"not verified yet: {outcome.error or 'somebody else is at it'}", markup=False)
            await asyncio.sleep(_LOOK_EVERY)
            outcome = await reached.forgetting.resume(outcome)
        return outcome


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")
