"""`stratamem keys`: make, list and revoke keys on the machine of the database, whosever they are."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Column

from api.start import explained, prepare_data_folder
from api.terminal import AsJson, DataDir, err, fail, moment, one_line_errors, out, settings_of, table
from memory.domain.principals import DEFAULT_TENANT, Key, KeyScope
from memory.settings import Settings

if TYPE_CHECKING:
    from memory.services.audit import Audit
    from memory.services.keys import Keys

app = typer.Typer(no_args_is_help=True, help="Keys that clients send as `Authorization: Bearer <key>`.")

Made = TypeVar("Made")

_PAGE = 500
_EXAMPLE = "sm_7c3k0q9mzx4a"
_MOST_DAYS = 36_500
_DONE = 200


@app.command()
def create(
    tenant: Annotated[
        str, typer.Option(help="The tenant that the key belongs to; made when it is new.")
    ] = DEFAULT_TENANT,
    scopes: Annotated[str, typer.Option(help="Of read, write, admin, separated by commas.")] = "read,write",
    agent: Annotated[str | None, typer.Option(help="Bind the key to this agent.")] = None,
    session: Annotated[list[str] | None, typer.Option(help="Allow only this session; may be repeated.")] = None,
    name: Annotated[str | None, typer.Option(help="For people: whose it is, or what for.")] = None,
    days: Annotated[int | None, typer.Option(help="Valid for so many days.", min=1, max=_MOST_DAYS)] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, once: it is stored hashed."""
    from api.keys.schemas import NewKeyAnswer

    wanted = _scopes(scopes)
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    made = _with_keys(
        data_dir,
        lambda keys: keys.create(
            tenant, wanted, agent_id=agent, session_ids=session or None, name=name, expires_at=expires_at
        ),
        lambda audit, new: audit.note(tenant, "keys.create", _DONE, subject=new.key.key_id),
    )
    if as_json:
        typer.echo(json.dumps({"tenant_id": tenant, **NewKeyAnswer.made(made).model_dump(mode="json")}))
        return
    typer.echo(made.token)
    may = ", ".join(sorted(made.key.scopes))
    err.print(
        f"key {made.key.key_id} of tenant '{tenant}' with the scopes {may}; it is shown only this once", markup=False
    )


@app.command("list")
def show(
    tenant: Annotated[str | None, typer.Option(help="Only the keys of this tenant.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List keys, newest first, the revoked and the expired with them."""
    from api.keys.schemas import KeyAnswer

    found = _with_keys(data_dir, lambda keys: _all(keys, tenant))
    if as_json:
        shown = [{"tenant_id": key.tenant_id, **KeyAnswer.of(key).model_dump(mode="json")} for key in found]
        typer.echo(json.dumps({"items": shown}))
        return
    first = Column("key", no_wrap=True, min_width=len(_EXAMPLE))
    listed = table(first, "tenant", "name", "scopes", "bound to", "state", "last used")
    for key in found:
        listed.add_row(*_row(key))
    out.print(listed, markup=False)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its key_id, or the key itself.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Let a key's bearer in no more; running services know it within a second."""
    from api.keys.schemas import KeyAnswer
    from memory.services.keys import key_id_of

    revoked = _with_keys(
        data_dir,
        lambda keys: keys.revoke(None, key_id_of(key)),
        lambda audit, gone: audit.note(gone.tenant_id, "keys.revoke", _DONE, subject=gone.key_id),
    )
    if as_json:
        typer.echo(json.dumps({"tenant_id": revoked.tenant_id, **KeyAnswer.of(revoked).model_dump(mode="json")}))
        return
    out.print(f"key {revoked.key_id} of tenant '{revoked.tenant_id}' is revoked", markup=False)


def _scopes(text: str) -> list[KeyScope]:
    try:
        return [KeyScope(name.strip()) for name in text.split(",") if name.strip()]
    except ValueError:
        fail(f"not scopes: {text}; use {', '.join(KeyScope)}, separated by commas", 2)


def _with_keys(
    data_dir: Path | None,
    use: "Callable[[Keys], Awaitable[Made]]",
    note: "Callable[[Audit, Made], None]" = lambda audit, made: None,
) -> Made:
    """`note`: what the audit is to know of it."""
    settings = settings_of(data_dir=data_dir)
    with one_line_errors():
        prepare_data_folder(settings)
        with explained():
            return asyncio.run(_opened(settings, use, note))


async def _opened(
    settings: Settings, use: "Callable[[Keys], Awaitable[Made]]", note: "Callable[[Audit, Made], None]"
) -> Made:
    """Without the container: keys need the database, not the models."""
    from memory.adapters.clock import SystemClock
    from memory.adapters.sql.storage import SqlStorage
    from memory.services.audit import Audit
    from memory.services.keys import Keys

    clock = SystemClock()
    storage = SqlStorage(settings.storage_url, settings.database)
    try:
        await storage.migrate()
        made = await use(Keys(storage, clock))
        audit = Audit(storage, clock)
        note(audit, made)
        await audit.flush()
        return made
    finally:
        await storage.close()


async def _all(keys: "Keys", tenant_id: str | None) -> list[Key]:
    found: list[Key] = []
    while True:
        page = await keys.page(tenant_id, after_id=found[-1].key_id if found else None, limit=_PAGE)
        found += page
        if len(page) < _PAGE:
            return found


def _row(key: Key) -> tuple[str, ...]:
    bounds = ([] if key.agent_id is None else [f"agent {key.agent_id}"]) + sorted(key.session_ids or ())
    return (
        key.prefix,
        key.tenant_id,
        key.name or "",
        ",".join(sorted(key.scopes)),
        ", ".join(bounds),
        _state(key),
        moment(key.last_used_at) if key.last_used_at else "never",
    )


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return f"revoked {moment(key.revoked_at)}"
    if key.expires_at is None:
        return "valid"
    return f"{'valid until' if key.valid(datetime.now(UTC)) else 'expired'} {moment(key.expires_at)}"
