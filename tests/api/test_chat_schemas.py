"""Each of OpenAI's fields is used, ignored or refused by name; nothing that changes the answer is passed over."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.testclient import TestClient

from api import errors
from api.chat.answers import EmbeddingsAnswer, ModelAnswer, ModelsAnswer, Reply, UsageAnswer
from api.chat.schemas import ChatRequest, EmbeddingsRequest
from memory.domain.errors import NoModelConfigured, UnknownModel, UnsupportedParameter
from memory.domain.generation import CachedTokens, ChatMessage, Fidelity, Finish, Sampling, Usage

USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def chat(**changes: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "tiny", "messages": [USER], **changes})


def said(**changes: Any) -> ChatMessage:
    return chat(messages=[{**USER, **changes}]).to_messages()[0]


def embeddings(**changes: Any) -> EmbeddingsRequest:
    return EmbeddingsRequest.model_validate({"model": "minilm", "input": "text", **changes})


REFUSED: list[tuple[str, Any]] = [
    ("audio", {"voice": "alloy", "format": "mp3"}),
    ("frequency_penalty", 0.5),
    ("function_call", {"name": "f"}),
    ("functions", [{"name": "f"}]),
    ("logit_bias", {"50256": -100}),
    ("logprobs", True),
    ("modalities", ["text", "audio"]),
    ("n", 2),
    ("n", 0),
    ("prediction", {"type": "content", "content": "x"}),
    ("presence_penalty", -0.5),
    ("reasoning_effort", "high"),
    ("response_format", {"type": "json_object"}),
    ("tool_choice", "required"),
    ("tools", [TOOL]),
    ("top_logprobs", 3),
    ("verbosity", "low"),
    ("web_search_options", {}),
    ("top_k", 40),
    ("cache_salt", "mine"),
    ("no such field", 1),
]

NEUTRAL: list[tuple[str, Any]] = [
    ("frequency_penalty", 0),
    ("frequency_penalty", 0.0),
    ("function_call", "none"),
    ("functions", []),
    ("logit_bias", {}),
    ("logprobs", False),
    ("modalities", ["text"]),
    ("n", 1),
    ("presence_penalty", 0.0),
    ("response_format", {"type": "text"}),
    ("tool_choice", "auto"),
    ("tools", []),
    ("top_logprobs", 0),
]

IGNORED: list[tuple[str, Any]] = [
    ("metadata", {"team": "a"}),
    ("parallel_tool_calls", True),
    ("prompt_cache_key", "k"),
    ("prompt_cache_retention", "24h"),
    ("safety_identifier", "u"),
    ("service_tier", "auto"),
    ("store", True),
    ("user", "u"),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_field_that_changes_the_answer_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        chat(**{name: value})

    assert raised.value.facts == {"param": name}
    assert name in raised.value.detail


@pytest.mark.parametrize(("name", "value"), NEUTRAL)
def test_a_value_that_says_nothing_is_taken(name: str, value: Any) -> None:
    assert chat(**{name: value}) == chat()


@pytest.mark.parametrize("name", list(ChatRequest.neutral))
def test_null_says_nothing(name: str) -> None:
    assert chat(**{name: None}) == chat()


@pytest.mark.parametrize(("name", "value"), IGNORED)
def test_a_field_that_does_not_change_the_answer_is_ignored(name: str, value: Any) -> None:
    assert chat(**{name: value}) == chat()


def test_every_table_entry_is_tried() -> None:
    assert set(ChatRequest.neutral) <= {name for name, _ in REFUSED}
    assert ChatRequest.ignored == {name for name, _ in IGNORED}
    assert not (ChatRequest.ignored | set(ChatRequest.neutral)) & set(ChatRequest.model_fields)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "tool_calls": [TOOL]}, "messages.tool_calls"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages.function_call"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages.audio"),
        ({"role": "assistant", "refusal": "no"}, "messages.refusal"),
        ({"role": "tool", "tool_call_id": "c"}, "messages.tool_call_id"),
        ({"role": "assistant", "tool_calls": [TOOL], "content": None}, "messages.tool_calls"),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages.content"),
        ({"content": [{"type": "input_audio"}]}, "messages.content"),
        ({"extra": 1}, "messages.extra"),
    ],
)
def test_what_a_message_can_t_hold_is_refused_by_name(message: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        said(**message)

    assert raised.value.facts == {"param": param}


def test_a_name_is_shown_in_part_and_without_lone_surrogates() -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        chat(**{"\ud800" + "x" * 1_000: 1})

    assert raised.value.facts["param"] == "?" + "x" * 63


def test_text_parts_become_one_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert said(content=parts).content == "one\ntwo"


def test_an_answer_of_ours_can_be_sent_back() -> None:
    sent = {"role": "assistant", "content": "hi", "refusal": None, "annotations": [], "audio": None, "tool_calls": None}
    assert said(**sent) == ChatMessage("assistant", "hi")


def test_an_empty_text_may_be_said_and_null_by_an_assistant() -> None:
    assert said(content="") == ChatMessage("user", "")
    assert said(role="assistant", content=None) == ChatMessage("assistant", "")
    assert said(content=[{"type": "text", "text": ""}]).content == ""


def test_a_top_p_of_zero_is_greedy() -> None:
    assert chat(top_p=0, temperature=2).to_sampling() == Sampling(temperature=0.0)


def test_developer_is_openai_s_newer_word_for_system() -> None:
    assert said(role="developer").role == "system"


INVALID: list[dict[str, Any]] = [
    {"model": ""},
    {"model": None},
    {"messages": []},
    {"messages": [USER] * 1_001},
    {"messages": [{"role": "robot", "content": "x"}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "user", "content": []}]},
    {"messages": [{"role": "user", "content": "nul \x00"}]},
    {"messages": [{"role": "user", "content": ["text"]}]},
    {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    {"messages": [{"role": "user", "content": "x", "name": "n" * 257}]},
    {"stream": "yes"},
    {"temperature": -0.1},
    {"temperature": 2.1},
    {"temperature": "1"},
    {"temperature": float("nan")},
    {"top_p": -0.1},
    {"top_p": 1.1},
    {"max_tokens": 0},
    {"max_tokens": 1.5},
    {"max_tokens": True},
    {"max_completion_tokens": 0},
    {"stop": ["a", "b", "c", "d", "e"]},
    {"stop": ["x" * 257]},
    {"stop": ""},
    {"stop": [1]},
    {"seed": 2**63},
    {"seed": -(2**63) - 1},
    {"seed": 1.5},
    {"memory_key": "no spaces"},
    {"agent_id": "x" * 129},
    {"memory": {"top_k": -1}},
    {"memory": {"top_k": 201}},
    {"memory": {"max_tokens": 0}},
    {"memory": {"fidelity": "int2"}},
    {"memory": {"store": "yes"}},
    {"memory": {"unknown": 1}},
    {"stream_options": {"include_usage": "yes"}},
]


@pytest.mark.parametrize("changes", INVALID, ids=lambda changes: json.dumps(changes)[:60])
def test_a_value_over_its_limits_is_invalid(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        chat(**changes)


def test_the_limits_themselves_are_valid() -> None:
    body = chat(
        temperature=2, top_p=1, max_tokens=1, stop=["x" * 256] * 4, seed=-(2**63), messages=[USER] * 1_000, stream=True
    )
    assert body.to_sampling() == Sampling(2.0, 1.0, 1, ("x" * 256,) * 4, -(2**63))
    assert len(body.to_messages()) == 1_000


def test_what_is_left_out_or_null_has_openai_s_defaults() -> None:
    nulls = dict.fromkeys(["temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "stream"])
    assert chat(**nulls).to_sampling() == chat().to_sampling() == Sampling()
    assert not chat().stream
    assert (chat().memory_key, chat().memory.store, chat().memory.fidelity) == (None, True, Fidelity.EXACT)


def test_one_stop_string_is_a_list_of_one_and_zero_is_a_temperature() -> None:
    sampling = chat(stop="\n", temperature=0, max_tokens=9, max_completion_tokens=5).to_sampling()
    assert sampling == Sampling(temperature=0.0, stop=("\n",), max_tokens=5)


def test_usage_is_streamed_where_it_is_asked_for() -> None:
    assert chat(stream_options={"include_usage": True, "include_obfuscation": False}).include_usage
    assert not chat(stream_options={}).include_usage
    assert not chat().include_usage


def test_refusals_are_problems_with_openai_s_status_codes() -> None:
    app = FastAPI()
    errors.install(app)

    @app.post("/chat")
    async def accept(body: ChatRequest) -> None:
        raise UnknownModel("no such model") if body.model == "other" else NoModelConfigured

    client = TestClient(app)
    refused = client.post("/chat", json={"model": "m", "messages": [USER], "tools": [TOOL]})
    assert (refused.status_code, refused.json()["code"], refused.json()["param"]) == (
        400,
        "unsupported_parameter",
        "tools",
    )
    assert client.post("/chat", json={"model": "other", "messages": [USER]}).json()["code"] == "model_not_found"
    unset = client.post("/chat", json={"model": "m", "messages": [USER]})
    assert (unset.status_code, unset.json()["code"]) == (503, "no_model_configured")
    assert "STRATAMEM_MODEL=" in unset.json()["detail"]
    assert "retry-after" not in unset.headers
    schema = client.get("/openapi.json").json()["components"]["schemas"]["SentMessage"]["properties"]["content"]
    assert [kind["type"] for kind in schema["anyOf"]] == ["string", "array", "null"]


USAGE = UsageAnswer.of(Usage(100, 7, CachedTokens(10, 20, 30), 1.5, 0.5), session_tokens=80, recalled=3)
REPLY = Reply("chatcmpl-1", 1_700_000_000, "tiny")


def test_a_whole_answer_has_openai_s_shape() -> None:
    assert REPLY.whole("hi", Finish.STOP, USAGE).model_dump() == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 7,
            "total_tokens": 107,
            "prompt_tokens_details": {"cached_tokens": 60},
            "memory": {
                "session_tokens": 80,
                "cached": {"device": 10, "host": 20, "disk": 30},
                "recalled": 3,
                "prefill_ms": 1.5,
                "restore_ms": 0.5,
            },
        },
    }


def test_chunks_have_openai_s_shape() -> None:
    chunks = [REPLY.opening(), REPLY.text("hi"), REPLY.ending(Finish.CANCELLED), REPLY.usage(USAGE)]
    dumped = [chunk.model_dump() for chunk in chunks]

    assert {chunk["object"] for chunk in dumped} == {"chat.completion.chunk"}
    assert [[choice["delta"] for choice in chunk["choices"]] for chunk in dumped] == [
        [{"role": "assistant", "content": ""}],
        [{"content": "hi"}],
        [{}],
        [],
    ]
    assert [[choice["finish_reason"] for choice in chunk["choices"]] for chunk in dumped] == [
        [None],
        [None],
        ["length"],
        [],
    ]
    assert [chunk["usage"] is None for chunk in dumped] == [True, True, True, False]


def test_models_have_openai_s_shape() -> None:
    models = ModelsAnswer(data=[ModelAnswer(id="tiny", created=1)]).model_dump()
    assert models == {
        "object": "list",
        "data": [{"id": "tiny", "object": "model", "created": 1, "owned_by": "stratamem"}],
    }


def test_embeddings_take_one_text_or_256() -> None:
    assert embeddings().input == ["text"]
    assert len(embeddings(input=["text"] * 256, user="u").input) == 256


@pytest.mark.parametrize("changes", [{"input": []}, {"input": ["t"] * 257}, {"input": ""}, {"encoding_format": "f16"}])
def test_embeddings_over_their_limits_are_invalid(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        embeddings(**changes)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"model_x": 1}, "model_x"),
    ],
)
def test_embeddings_refuse_by_name(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        embeddings(**changes)

    assert raised.value.facts == {"param": param}


def test_dimensions_are_the_model_s_or_refused() -> None:
    embeddings().check_dimensions(384)
    embeddings(dimensions=384).check_dimensions(384)
    with pytest.raises(UnsupportedParameter, match=r"dimensions.*384"):
        embeddings(dimensions=256).check_dimensions(384)


def test_vectors_are_numbers_or_little_endian_float32() -> None:
    vectors = np.array([[0.6, 0.8], [1, 0]], np.float32)
    plain = EmbeddingsAnswer.of(vectors, embeddings(), model="minilm", tokens=9)
    packed = EmbeddingsAnswer.of(vectors, embeddings(encoding_format="base64"), model="minilm", tokens=9)

    assert [item.index for item in plain.data] == [0, 1]
    np.testing.assert_array_equal([item.embedding for item in plain.data], vectors)
    decoded = [np.frombuffer(base64.b64decode(str(item.embedding)), "<f4") for item in packed.data]
    np.testing.assert_array_equal(decoded, vectors)
    assert (plain.usage.prompt_tokens, plain.usage.total_tokens) == (9, 9)
