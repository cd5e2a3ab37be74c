"""`stratamem context`: what would an agent get to read, within a budget of tokens?"""

import json
from typing import Annotated

import typer

from api.recall.commands import tell_degraded
from api.remote import Agent, Json, Service, SessionId, Url, path_of
from api.terminal import AsJson, err, out


def context(
    session: SessionId,
    max_tokens: Annotated[int, typer.Option(help="So many tokens at most.", min=1, max=10_000_000)] = 4_000,
    query: Annotated[
        str | None, typer.Option(help="What is asked: recalled for it, and the last message.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    agent: Agent = None,
) -> None:
    """Build the messages that a model reads: summary, recent window, what is recalled for a query, and the query."""
    wanted: Json = {"max_tokens": max_tokens} | ({} if query is None else {"query": query})
    with Service(url, agent) as service:
        answer = service.post(path_of("sessions", session, "context"), wanted)
    if as_json:
        typer.echo(json.dumps(answer))
        return
    for message in answer["messages"]:
        who = f"{message['role']} ({message['name']})" if "name" in message else message["role"]
        out.print(f"{who}: {message['content']}", markup=False)
    tell_degraded(answer)
    spent = answer["tokens"]
    parts = ", ".join(f"{name} {spent[name]:,}" for name in ("window", "summary", "recall"))
    err.print(f"{spent['total']:,} of {max_tokens:,} tokens: {parts}", markup=False)
