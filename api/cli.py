"""`stratamem`: start the service and its workers, bring the database up to date, make keys.

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
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from api import logs
from api.start import StartError, explained, prepare_data_folder
from api.version import VERSION
from memory.domain.principals import DEFAULT_TENANT, KeyScope
from memory.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Stratamem: a memory service for agents.")
keys = typer.Typer(no_args_is_help=True, help="Keys that clients send as `Authorization: Bearer <key>`.")
app.add_typer(keys, name="keys")

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded database and the indexes.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=0, max=65_535)] = None,
    data_dir: DataDir = None,
) -> None:
    """Start the API, with the workers inside unless STRATAMEM_BROKER_URL names a broker."""
    settings = _settings(host=host, port=port, data_dir=data_dir)
    with _one_line_errors(), _starting():
        from api import serve as service

        service.run(settings, lambda url: _announce(settings, url))
    _end()


@app.command()
def worker(
    data_dir: DataDir = None,
    ping: Annotated[bool, typer.Option("--ping", help="Only ask whether a worker of this host is well.")] = False,
) -> None:
    """Start a worker process beside the API; needs STRATAMEM_BROKER_URL."""
    settings = _settings(data_dir=data_dir)
    from workers import main

    if ping:
        raise typer.Exit(0 if main.ping(settings) else 1)
    if settings.embedded:
        _fail("without STRATAMEM_BROKER_URL the workers run inside `stratamem serve`: there is nothing to start", 2)
    logs.configure(settings)
    with _one_line_errors(), explained():
        main.run(settings)


@app.command()
def runtime(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=0, max=65_535)] = None,
    data_dir: DataDir = None,
) -> None:
    """Start the model runtime as a process of its own: generation, its KV, and embeddings, for any number of APIs."""
    settings = _settings(runtime_host=host, runtime_port=port, data_dir=data_dir)
    with _one_line_errors(), _starting():
        from api import runtime as process

        process.run(settings, lambda url: _announce_runtime(settings, url))
    _end()


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database's schema to the newest version."""
    settings = _settings(data_dir=data_dir)
    with _one_line_errors():
        prepare_data_folder(settings)
        with explained():
            asyncio.run(_migrate(settings))
    _out.print("the database is up to date", markup=False)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(VERSION)


@keys.command("create")
def create_key(
    tenant: Annotated[
        str, typer.Option(help="The tenant that the key belongs to; made when it is new.")
    ] = DEFAULT_TENANT,
    scopes: Annotated[str, typer.Option(help="Of read, write, admin, separated by commas.")] = "read,write",
    agent: Annotated[str | None, typer.Option(help="Bind the key to this agent.")] = None,
    session: Annotated[list[str] | None, typer.Option(help="Allow only this session; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, once: it is stored hashed."""
    settings = _settings(data_dir=data_dir)
    wanted = _scopes(scopes)
    with _one_line_errors():
        prepare_data_folder(settings)
        with explained():
            made = asyncio.run(_create_key(settings, tenant, wanted, agent, session or None))
    if as_json:
        typer.echo(json.dumps(made))
        return
    typer.echo(made["token"])
    _err.print(f"key {made['key_id']} of tenant '{tenant}'; this is the only time that it is shown", markup=False)


def _settings(**options: Any) -> Settings:
    """The environment's settings under what the command line says. Ends the process when they make no sense."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        for wrong in error.errors(include_url=False, include_input=False):
            name = "STRATAMEM_" + "__".join(str(part) for part in wrong["loc"]).upper()
            _err.print(f"{name}: {wrong['msg']}", markup=False)
        raise typer.Exit(1) from None


def _scopes(text: str) -> list[KeyScope]:
    try:
        return [KeyScope(name.strip()) for name in text.split(",") if name.strip()]
    except ValueError:
        _fail(f"not scopes: {text}; use {', '.join(KeyScope)}, separated by commas", 2)


async def _migrate(settings: Settings) -> None:
    from memory.adapters.sql.storage import SqlStorage

    storage = SqlStorage(settings.storage_url, settings.database)
    try:
        await storage.migrate()
    finally:
        await storage.close()


async def _create_key(
    settings: Settings, tenant: str, scopes: list[KeyScope], agent: str | None, sessions: list[str] | None
) -> dict[str, Any]:
    """Without the container: a key needs the database, not the models."""
    from memory.adapters.clock import SystemClock
    from memory.adapters.sql.storage import SqlStorage
    from memory.services.keys import Keys
    from memory.services.secrets import TenantSecrets

    clock = SystemClock()
    storage = SqlStorage(settings.storage_url, settings.database)
    try:
        await storage.migrate()
        keys = Keys(storage, TenantSecrets(storage, clock), clock)
        made = await keys.create(tenant, scopes, agent_id=agent, session_ids=sessions)
    finally:
        await storage.close()
    return {
        "token": made.token,
        "key_id": made.key.key_id,
        "tenant_id": tenant,
        "scopes": sorted(made.key.scopes),
        "agent_id": agent,
        "session_ids": sessions,
    }


@contextmanager
def _starting() -> Iterator[None]:
    """No garbage is collected until the service stands and switches it on again: walking the libraries' objects again
    and again while they are imported is an eighth of the CPU that a start takes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except StartError as error:
        _fail(str(error), error.exit_code)


def _end() -> NoReturn:
    """Everything is closed: taking the interpreter and the model libraries apart takes 4 to 6 s more, for nothing."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _fail(message: str, exit_code: int) -> NoReturn:
    _err.print(f"stratamem: {message}", markup=False, style="red")
    raise typer.Exit(exit_code)


def _announce(settings: Settings, url: str) -> None:
    key = ' -H "Authorization: Bearer $STRATAMEM_KEY"' if settings.keys_needed else ""
    body = '{"events": [{"role": "user", "content": "The spare key is under the blue pot."}]}'
    curl = f"curl -s {url}/v1/sessions/demo/events{key} -H 'Content-Type: application/json' -d '{body}'"
    _out.print(f"Stratamem {VERSION} answers on {url}", markup=False)
    _out.print(f"  API docs   {url}/docs", markup=False)
    _out.print(f"  health     {url}/health/ready", markup=False)
    _out.print(f"  data       {settings.data_dir.resolve()}", markup=False)
    _out.print(f"  try        {curl}", markup=False)


def _announce_runtime(settings: Settings, url: str) -> None:
    key = " STRATAMEM_RUNTIME_KEY=$STRATAMEM_RUNTIME_KEY" if settings.runtime_key else ""
    _out.print(f"Stratamem's model runtime {VERSION} answers on {url}", markup=False)
    _out.print(f"  model      {settings.model or 'none: it only embeds; STRATAMEM_MODEL sets one'}", markup=False)
    _out.print(f"  embedder   {settings.embedder}", markup=False)
    _out.print(f"  KV         {settings.runtime_kv_dir}", markup=False)
    _out.print(f"  use it     STRATAMEM_RUNTIME_URL={url}{key} stratamem serve", markup=False)
