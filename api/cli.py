"""`stratamem`: start the service and its workers, bring the database up to date, manage keys.

What a command needs is imported when it runs: `stratamem version` does not wait for models.
"""

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from api import logs
from api.doctor import doctor
from api.keys import commands as keys
from api.start import explained, prepare_data_folder
from api.terminal import DataDir, fail, one_line_errors, out, settings_of
from api.version import VERSION
from memory.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Stratamem: a memory service for agents.")
app.add_typer(keys.app, name="keys")
app.command()(doctor)


@app.command()
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


@app.command()
def worker(
    data_dir: DataDir = None,
    ping: Annotated[bool, typer.Option("--ping", help="Only ask whether a worker of this host is well.")] = False,
) -> None:
    """Start a worker process beside the API; needs STRATAMEM_BROKER_URL."""
    settings = settings_of(data_dir=data_dir)
    from workers import main

    if ping:
        raise typer.Exit(0 if main.ping(settings) else 1)
    if settings.embedded:
        fail("without STRATAMEM_BROKER_URL the workers run inside `stratamem serve`: there is nothing to start", 2)
    logs.configure(settings)
    with one_line_errors(), explained():
        main.run(settings)


@app.command()
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


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database's schema to the newest version."""
    settings = settings_of(data_dir=data_dir)
    with one_line_errors():
        prepare_data_folder(settings)
        with explained():
            asyncio.run(_migrate(settings))
    out.print("the database is up to date", markup=False)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(VERSION)


async def _migrate(settings: Settings) -> None:
    from memory.adapters.sql.storage import SqlStorage

    storage = SqlStorage(settings.storage_url, settings.database)
    try:
        await storage.migrate()
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
