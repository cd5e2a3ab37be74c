"""How does a failure look to a client? Always RFC 9457 problem details, never a stack trace, never the input again.

`code` is what clients match on; `errors` names the places of bad input; an error's own facts (such as `last_seq`)
are further members. OpenAI's endpoints add `error`, which is all that OpenAI's clients read.
"""

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from memory.domain.errors import RateLimited, Retryable, StratamemError
from memory.domain.quotas import Standing

PROBLEM_JSON = "application/problem+json"
INVALID_INPUT = "invalid_input"
INVALID_TEXT = "invalid_text"
INVALID_JSON = "invalid_json"
TOO_LARGE = "too_large"
INTERNAL_ERROR = "internal_error"

_RETRY_AFTER = "2"
_SURROGATES = re.compile("[\ud800-\udfff]")
_MAX_ERRORS = 100

# pydantic's and our own error types that have a code of their own; the first one found names the problem.
_CODES = {"json_invalid": INVALID_JSON, INVALID_TEXT: INVALID_TEXT, "string_unicode": INVALID_TEXT}
_DETAILS = {
    INVALID_INPUT: "the request has invalid fields: see errors",
    INVALID_TEXT: "a text has characters that can't be stored: see errors",
    INVALID_JSON: "the body is not valid JSON",
    TOO_LARGE: "a text is over the published limit: see errors",
}
_NOT_JSON = "send the body as JSON, with the header Content-Type: application/json"
_ROUTER_CODES = {404: "not_found", 405: "method_not_allowed", 413: TOO_LARGE}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_OWN_MEMBERS = {"type", "title", "status", "detail", "code", "errors", "error"}

_OPENAI_PATHS = ("/v1/chat/", "/v1/models", "/v1/embeddings")
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ProblemError(BaseModel):
    loc: list[str | int] = Field(
        description="The place in the request: `body`, `query`, `path` or `header`, then keys."
    )
    message: str
    type: str


class Problem(BaseModel):
    """What went wrong. Match on `code`; `detail` is for people."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:stratamem:problem:not_found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str
    code: str = Field(examples=["not_found"])
    errors: list[ProblemError] = Field(default=[], description="Where the input is bad; absent for other problems.")


class OpenAIError(BaseModel):
    """`message` ends with the code: it is all that OpenAI's clients print."""

    message: str = Field(examples=["there is no model 'x' here, only 'y' (model_not_found)"])
    type: str = Field(examples=["invalid_request_error"])
    code: str = Field(examples=["model_not_found"])
    param: str | None = Field(description="The field that is refused; null: no single one.")


class OpenAIProblem(Problem):
    """A problem, and beside it the same as OpenAI's clients read it."""

    error: OpenAIError


_DESCRIPTIONS = {
    400: "A field of OpenAI's that is not supported here, or a prompt longer than the model reads",
    401: "No key, or a wrong one",
    403: "The key lacks the scope, or is bound to another agent",
    404: "Absent, or of another tenant",
    409: "The state is not what the request expects",
    412: "If-Match names another version",
    413: "Over a published limit",
    429: "A limit of this key or tenant (`rate_limited`, `quota_exceeded`), or so many answers (`too_many_answers`) or"
    " turns of the session (`too_many_turns`) wait already",
    422: "The request can't be served as it is (`invalid_input`, `invalid_text`, `invalid_json`, …)",
    500: "Our mistake; the log has it under the answer's `X-Request-Id`",
    503: "The same call may succeed later",
}


def problems(*statuses: int, model: type[Problem] = Problem) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of an endpoint that may answer these beside what every endpoint may answer."""
    content = {PROBLEM_JSON: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    every = {401, 403, 413, 422, 429, 500, 503, *statuses}
    return {status: {"description": _DESCRIPTIONS[status], "content": content} for status in sorted(every)}


def schemas() -> dict[str, Any]:
    """What `problems` refers to, for the description's components."""
    _, made = models_json_schema(
        [(Problem, "validation"), (OpenAIProblem, "validation")], ref_template="#/components/schemas/{model}"
    )
    return dict(made["$defs"])


def openai_error(status: int, code: str, detail: str, param: object = None) -> dict[str, Any]:
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"message": f"{detail} ({code})", "type": kind, "code": code, "param": param}


def problem(
    asked: Mapping[str, Any],
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """`asked`: the request, or its ASGI scope."""
    body: dict[str, Any] = {
        "type": f"urn:stratamem:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    if errors:
        body["errors"] = errors
    body |= {name: value for name, value in (facts or {}).items() if name not in _OWN_MEMBERS}
    if asked["path"].startswith(_OPENAI_PATHS):
        body["error"] = _openai_error_of(body)
    text = json.dumps(body, ensure_ascii=False, default=str)
    return Response(_SURROGATES.sub("\ufffd", text), status, dict(headers or {}), PROBLEM_JSON)


def _openai_error_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Of bad input the first place, by name: OpenAI has room for one."""
    detail, param = body["detail"], body.get("param")
    if "errors" in body:
        first = body["errors"][0]
        param = ".".join(map(str, first["loc"][1:])) or None
        detail = f"{param or 'the request'}: {first['message']}"
    return openai_error(body["status"], body["code"], detail, param)


def install(app: FastAPI) -> None:
    """Every error that can leave the router. Unexpected ones are answered by `api.observe`."""
    app.add_exception_handler(StratamemError, _on_stratamem_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_stratamem_error(request: Request, raised: Exception) -> Response:
    error = cast(StratamemError, raised)
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="stratamem"'
    elif isinstance(error, RateLimited):
        headers |= {"Retry-After": str(error.standing.reset), **rate_limit(error.standing)}
    elif isinstance(error, Retryable):
        headers["Retry-After"] = _RETRY_AFTER
    return problem(request, error.status, error.code, error.detail, facts=error.facts, headers=headers)


def rate_limit(standing: Standing) -> dict[str, str]:
    """The headers that say how far a caller may still go (IETF's draft of RateLimit header fields, version 6)."""
    allowance = standing.allowance
    return {
        "RateLimit-Limit": str(allowance.amount),
        "RateLimit-Remaining": str(standing.remaining),
        "RateLimit-Reset": str(standing.reset),
        "RateLimit-Policy": f"{allowance.amount};w={allowance.seconds}",
    }


async def _on_invalid_request(request: Request, raised: Exception) -> Response:
    found = cast(RequestValidationError, raised).errors()
    # The input is left out on purpose: it may be a secret, a megabyte, or no valid Unicode.
    errors = [
        {"loc": list(error["loc"]), "message": error["msg"], "type": error["type"]} for error in found[:_MAX_ERRORS]
    ]
    types = [error["type"] for error in found]
    if TOO_LARGE in types:
        return problem(request, 413, TOO_LARGE, _DETAILS[TOO_LARGE], errors=errors)
    code = next((_CODES[kind] for kind in types if kind in _CODES), INVALID_INPUT)
    detail = _NOT_JSON if _is_undeclared(request, found) else _DETAILS[code]
    return problem(request, 422, code, detail, errors=errors)


def _is_undeclared(request: Request, found: Sequence[Any]) -> bool:
    """The body as a whole was refused, because it does not say that it is JSON."""
    return found[0]["loc"] == ("body",) and "json" not in request.headers.get("content-type", "")


async def _on_http_error(request: Request, raised: Exception) -> Response:
    error = cast(HTTPException, raised)
    if error.status_code == 400:  # FastAPI's word for a body that json.loads refuses in another way
        return problem(request, 422, INVALID_JSON, _DETAILS[INVALID_JSON])
    code = _ROUTER_CODES.get(error.status_code, "http_error")
    headers = {"Allow": ", ".join(_allowed(request))} if error.status_code == 405 else error.headers
    return problem(request, error.status_code, code, error.detail, headers=headers)


def _allowed(request: Request) -> list[str]:
    """The methods of a path: it may have several routes, and the router names those of the first."""
    asked = {name: request.scope[name] for name in ("type", "path", "root_path", "headers") if name in request.scope}
    routes = request.app.routes
    return [
        method
        for method in _METHODS
        if any(route.matches({**asked, "method": method})[0] is Match.FULL for route in routes)
    ]
