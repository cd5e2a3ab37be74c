"""What is refused reads well in the real openai package, and stays a problem of RFC 9457."""

from typing import Any

import httpx
import openai
import pytest

from api.limits import MAX_BODY_BYTES

USER = {"role": "user", "content": "hello"}
FIXTURE = "stratamem-fixture-handwired-recall"


@pytest.fixture
def openai_client(service: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service}/v1", api_key="none needed", max_retries=0)


def test_what_is_absent_is_said_with_message_and_code(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        openai_client.chat.completions.create(model="gpt-x", messages=[USER])  # type: ignore[list-item]
    assert "there is no model 'gpt-x' here" in str(raised.value)
    assert "model_not_found" in str(raised.value)
    assert (raised.value.code, raised.value.type) == ("model_not_found", "invalid_request_error")


def test_what_is_invalid_is_said_with_its_place(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        openai_client.chat.completions.create(
            model="m",
            messages=[USER],  # type: ignore[list-item]
            temperature=9,
        )
    assert "temperature: Input should be less than or equal to 2" in str(raised.value)
    assert (raised.value.code, raised.value.param) == ("invalid_input", "temperature")
    with pytest.raises(openai.BadRequestError) as unsupported:
        openai_client.embeddings.create(model="m", input=[1, 2])
    assert (unsupported.value.code, unsupported.value.param) == ("unsupported_parameter", "input")


def test_what_is_refused_before_the_router_is_said_alike(service: str) -> None:
    for path in ("/v1/chat/completions", "/v1/embeddings"):
        answer = httpx.post(service + path, content=b"x" * (MAX_BODY_BYTES + 1)).json()
        assert (answer["code"], answer["error"]["code"]) == ("too_large", "too_large")
    assert httpx.put(f"{service}/v1/models").json()["error"]["code"] == "method_not_allowed"


def test_openai_s_error_stands_beside_the_problem_s_own_fields(service: str) -> None:
    answer = httpx.post(f"{service}/v1/chat/completions", json={"model": "gpt-x", "messages": [USER]})
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (404, "model_not_found")
    message = f"{problem['detail']} (model_not_found)"
    wanted = {"message": message, "type": "invalid_request_error", "code": "model_not_found", "param": None}
    assert problem["error"] == wanted
    assert "error" not in httpx.get(f"{service}/v1/sessions/none").json()


def test_the_description_has_openai_s_error_where_it_is_answered(service: str) -> None:
    described: Any = httpx.get(f"{service}/openapi.json").json()
    for path, methods in described["paths"].items():
        ours = not path.startswith(("/v1/chat/", "/v1/models", "/v1/embeddings"))
        for method in methods.values():
            for status, answer in method["responses"].items():
                if int(status) >= 400 and path.startswith("/v1/"):
                    schema = answer["content"]["application/problem+json"]["schema"]
                    name = "Problem" if ours else "OpenAIProblem"
                    assert schema == {"$ref": f"#/components/schemas/{name}"}
    assert "error" in described["components"]["schemas"]["OpenAIProblem"]["required"]
