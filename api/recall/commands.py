"""`stratamem recall`: what does a running service remember about a question?"""

import json
from typing import Annotated

import typer

from api.remote import Agent, Json, Service, Url
from api.terminal import AsJson, err, moment, number, out, show, table
from memory.domain.recall import MAX_TOP_K


def recall(
    question: Annotated[str, typer.Argument(help="What is looked for; the words need not be the same.")],
    session: Annotated[
        list[str] | None, typer.Option(help="Only in this session; may be repeated.", show_default=False)
    ] = None,
    top_k: Annotated[int, typer.Option(help="So many results at most.", min=1, max=MAX_TOP_K)] = 5,
    explain: Annotated[bool, typer.Option("--explain", help="Show what each score is made of.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    agent: Agent = None,
) -> None:
    """Find what was said or written down about a question, best first."""
    wanted: Json = {"query": question, "top_k": top_k, "explain": explain}
    if session:
        wanted["session_ids"] = session
    with Service(url, agent) as service:
        answer = service.post("/v1/recall", wanted)
    if as_json:
        typer.echo(json.dumps(answer))
        return
    listed = table(number("score"), "tier", "where", "who", "when", "what")
    for result in answer["results"]:
        listed.add_row(*_row(result, explain))
    show(listed)
    tell_degraded(answer)
    out.print(f"{len(answer['results'])} found in {answer['usage']['took_ms']:.1f} ms", markup=False)


def tell_degraded(answer: Json) -> None:
    """Which tiers could not answer, and why."""
    for tier in answer["degraded"]:
        err.print(f"without the tier '{tier['tier']}': {tier['reason']}", markup=False, style="yellow")


def _row(result: Json, explain: bool) -> tuple[str, ...]:
    text = result["text"]
    if explain:
        text += "\n" + "  ".join(f"{name} {value:.2f}" for name, value in result["signals"].items())
    who = result["agent_id"] or result["role"] or ""
    return f"{result['score']:.2f}", result["tier"], _where(result), who, moment(result["created_at"]), text


def _where(result: Json) -> str:
    if result["memory_id"] is not None:
        return f"{result['kind']} {result['memory_id']}"
    return f"{result['session_id']} {', '.join(str(event['seq']) for event in result['events'])}"
