"""`stratamem`: run the service, talk to one that runs, and look after what it keeps.

What a command needs is imported when it runs: `stratamem version` does not wait for models.
"""

import asyncio
import gc
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from api.backup import backup, restore
from api.context.commands import context
from api.doctor import doctor
from api.events.commands import append
from api.keys import commands as keys
from api.recall.commands import recall
from api.receipts import commands as receipts
from api.sessions import commands as sessions
from api.start import explained, prepare_data_folder
from api.tenants import commands as tenants
from api.terminal import AsJson, DataDir, fail, one_line_errors, out, settings_of
from api.verify import verify_purge
from api.version import VERSION
from memory.settings import Settings

RUN, TALK, LOOK_AFTER = "Run it", "Talk to a running service (STRATAMEM_URL, STRATAMEM_KEY)", "Look after it"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Stratamem: a memory service for agents. `stratamem serve` starts it; settings are environment variables.",
)


@app.command(rich_help_panel=RUN)
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=0, max=65_535)] = None,
    data_dir: DataDir = None,
) -> None:
    """Start the API, with the workers inside unless STRATAMEM_BROKER_URL names a broker."""
    settings = settings_of(host=host, port=port, data_dir=data_dir)
    with one_line_errors(), _starting():
        from api import serve as service

        service.run(settings, lambda url: _announce(settings, url))
    _end()


@app.command(rich_help_panel=RUN)
def worker(
    data_dir: DataDir = None,
    ping: Annotated[bool, typer.Option("--ping", help="Only ask whether a worker of this host is well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --ping: print JSON.")] = False,
) -> None:
    """Start a worker process beside the API; needs STRATAMEM_BROKER_URL."""
    settings = settings_of(data_dir=data_dir)
    from workers import main

    if ping:
        well = main.ping(settings)
        if as_json:
            typer.echo(json.dumps({"well": well}))
        raise typer.Exit(0 if well else 1)
    if settings.embedded:
        fail("without STRATAMEM_BROKER_URL the workers run inside `stratamem serve`: there is nothing to start", 2)
    from api import logs

    logs.configure(settings)
    with one_line_errors(), explained():
        main.run(settings)


@app.command(rich_help_panel=RUN)
def runtime(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=0, max=65_535)] = None,
    data_dir: DataDir = None,
) -> None:
    """Start the model runtime as a process of its own: generation, its KV, and embeddings, for any number of APIs."""
    settings = settings_of(runtime_host=host, runtime_port=port, data_dir=data_dir)
    with one_line_errors(), _starting():
        from api import runtime as process

        process.run(settings, lambda url: _announce_runtime(settings, url))
    _end()


def migrate(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Bring the database's schema to the newest version."""
    settings = settings_of(data_dir=data_dir)
    with one_line_errors():
        prepare_data_folder(settings)
        with explained():
            before, now = asyncio.run(_migrate(settings))
    if as_json:
        typer.echo(json.dumps({"from": before, "to": now}))
        return
    out.print(f"the database is up to date, schema {now}", markup=False)


def version(as_json: AsJson = False) -> None:
    """Print the version."""
    typer.echo(json.dumps({"version": VERSION}) if as_json else VERSION)


app.command(rich_help_panel=TALK)(append)
app.command(rich_help_panel=TALK)(recall)
app.command(rich_help_panel=TALK)(context)
app.add_typer(sessions.app, name="sessions", rich_help_panel=TALK)
app.command(rich_help_panel=LOOK_AFTER)(doctor)
app.command(rich_help_panel=LOOK_AFTER)(migrate)
app.command(rich_help_panel=LOOK_AFTER)(backup)
app.command(rich_help_panel=LOOK_AFTER)(restore)
app.command("verify-purge", rich_help_panel=LOOK_AFTER)(verify_purge)
app.add_typer(receipts.app, name="receipts", rich_help_panel=LOOK_AFTER)
app.add_typer(keys.app, name="keys", rich_help_panel=LOOK_AFTER)
app.add_typer(tenants.app, name="tenants", rich_help_panel=LOOK_AFTER)
app.command(rich_help_panel=LOOK_AFTER)(version)


async def _migrate(settings: Settings) -> tuple[str | None, str]:
    """The schema's revision before and afterwards."""
    from memory.adapters.sql.storage import SqlStorage

    storage = SqlStorage(settings.storage_url, settings.database)
    try:
        before, newest = await storage.schema()
        await storage.migrate()
        return before, newest
    finally:
        await storage.close()


@contextmanager
def _starting() -> Iterator[None]:
    """No garbage is collected until the service stands and switches it on again: walking the libraries' objects again
    and again while they are imported is an eighth of the CPU that a start takes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _end() -> NoReturn:
    """Everything is closed: taking the interpreter and the model libraries apart takes 4 to 6 s more, for nothing."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _announce(settings: Settings, url: str) -> None:
    key = ' -H "Authorization: Bearer $STRATAMEM_KEY"' if settings.keys_needed else ""
    body = '{"events": [{"role": "user", "content": "The spare key is under the blue pot."}]}'
    curl = f"curl -s {url}/v1/sessions/demo/events{key} -H 'Content-Type: application/json' -d '{body}'"
    out.print(f"Stratamem {VERSION} answers on {url}", markup=False)
    out.print(f"  API docs   {url}/docs", markup=False)
    if settings.admin_page:
        out.print(f"  admin page {url}/admin", markup=False)
    out.print(f"  health     {url}/health/ready", markup=False)
    out.print(f"  data       {settings.data_dir.resolve()}", markup=False)
    out.print(f"  try        {curl}", markup=False)


def _announce_runtime(settings: Settings, url: str) -> None:
    key = " STRATAMEM_RUNTIME_KEY=$STRATAMEM_RUNTIME_KEY" if settings.runtime_key else ""
    out.print(f"Stratamem's model runtime {VERSION} answers on {url}", markup=False)
    out.print(f"  model      {settings.model or 'none: it only embeds; STRATAMEM_MODEL sets one'}", markup=False)
    out.print(f"  embedder   {settings.embedder}", markup=False)
    out.print(f"  KV         {settings.runtime_kv_dir}", markup=False)
    out.print(f"  use it     STRATAMEM_RUNTIME_URL={url}{key} stratamem serve", markup=False)
