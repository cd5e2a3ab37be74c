"""`stratamem sessions`: look into the sessions of a running service, and purge them."""

import json
import time
from typing import Annotated

import typer
from rich.table import Table

from api.events.commands import events
from api.remote import Agent, Json, Service, SessionId, Url, path_of
from api.terminal import AsJson, confirm, err, fail, moment, number, out, show, table

app = typer.Typer(no_args_is_help=True, help="Look into the sessions of a running service, and purge them.")

_GLANCE = 0.5


@app.command("list")
def show_all(
    limit: Annotated[int, typer.Option(help="So many at most.", min=1, max=100_000)] = 50,
    as_json: AsJson = False,
    url: Url = None,
    agent: Agent = None,
) -> None:
    """List sessions, newest first."""
    with Service(url, agent) as service:
        found = service.items("/v1/sessions", limit)
    if as_json:
        typer.echo(found.as_json())
        return
    listed = table("session", "title", number("events"), number("tokens"), "last change")
    for one in found.items:
        counts = f"{one['event_count']:,}", f"{one['token_count']:,}"
        listed.add_row(one["session_id"], one["title"] or "", *counts, moment(one["updated_at"]))
    show(listed)
    if found.more:
        err.print(f"the newest {limit:,}; there are more: --limit", markup=False)


@app.command("show")
def show_one(session: SessionId, as_json: AsJson = False, url: Url = None, agent: Agent = None) -> None:
    """Show what a session is, what each tier holds of it, and who takes part."""
    with Service(url, agent) as service:
        found = service.get(path_of("sessions", session))
        taking_part = service.items(path_of("sessions", session, "agents"), 500).items
    if as_json:
        typer.echo(json.dumps({**found, "agents": taking_part}))
        return
    facts = table("", "")
    facts.show_header = False
    for name, value in _facts(found, taking_part):
        if value:
            facts.add_row(name, value)
    show(facts)


app.command("events")(events)


@app.command()
def purge(
    session: SessionId,
    cascade: Annotated[bool, typer.Option("--cascade", help="Take its forks along.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    agent: Agent = None,
) -> None:
    """Remove a session with all that was made of it, for good, and show the receipt."""
    with Service(url, agent) as service:
        if not yes:
            found = service.get(path_of("sessions", session))
            forks = " and its forks" if cascade else ""
            confirm(f"Purge '{session}'{forks} with {found['event_count']:,} events? It can't be brought back.", yes)
        status, answer = service.delete(path_of("sessions", session), cascade=cascade)
        receipt = answer if status == 200 else _finished(service, answer["operation_id"])
    if as_json:
        typer.echo(json.dumps(receipt))
        return
    show(_receipt(receipt))
    verified = "every live index has confirmed it" if receipt["verified"] else "not verified"
    out.print(f"purged at {moment(receipt['at'])}; {verified}", markup=False)
    if "receipt_id" in receipt:  # one of an earlier version has none
        out.print(f"receipt {receipt['receipt_id']}", markup=False)
    if receipt.get("kept_for"):
        out.print(f"kept is what forks share: {', '.join(receipt['kept_for'])}", markup=False)


def _facts(found: Json, taking_part: list[Json]) -> list[tuple[str, str]]:
    hot, semantic, longterm = (found["tiers"][name] for name in ("hot", "semantic", "longterm"))
    agents = ", ".join(f"{one['agent_id']} ({one['role']})" for one in taking_part)
    return [
        ("session", found["session_id"]),
        ("title", found["title"] or ""),
        ("fork of", found.get("forked_from", "")),
        ("made", moment(found["created_at"])),
        ("last change", moment(found["updated_at"])),
        ("events", f"{found['event_count']:,}, the last is {found['last_seq']}"),
        ("tokens", tokens_of(found)),
        ("hot", f"{hot['tokens']:,} tokens, {hot['blocks']:,} blocks of KV"),
        ("semantic", f"{semantic['segments']:,} segments in {semantic['clusters']:,} clusters"),
        ("long-term", f"{longterm['memories']:,} memories"),
        ("open to", (agents or "nobody") if found["closed"] else "everybody in the tenant"),
        ("metadata", json.dumps(found["metadata"], ensure_ascii=False) if found["metadata"] else ""),
    ]


def tokens_of(found: Json) -> str:
    there, window = found["token_count"], found["window_tokens"]
    kept = f"all in the window ({window:,})" if there <= window else f"of which the window keeps {window:,}"
    return f"{there:,}, {kept}"


def _finished(service: Service, operation_id: str) -> Json:
    """The receipt of a purge that others still have to confirm."""
    with err.status("other processes are cleaning their indexes", spinner="dots"):
        while True:
            operation: Json = service.get(path_of("operations", operation_id))
            match operation["state"]:
                case "succeeded":
                    receipt: Json = operation["result"]
                    return receipt
                case "failed" | "cancelled":
                    fail(f"the purge has {operation['state']}: {operation.get('error', 'it does not say why')}", 1)
            time.sleep(_GLANCE)


def _receipt(receipt: Json) -> Table:
    kept = receipt.get("kept", {})
    listed = table("of", number("purged"), *([number("kept")] if kept else []))
    for name, count in receipt["purged"].items():
        listed.add_row(name, f"{count:,}", *([f"{kept.get(name, 0):,}"] if kept else []))
    return listed
