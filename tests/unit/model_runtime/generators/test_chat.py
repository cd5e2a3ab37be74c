"""The fixture's tokenizer under the templates of models that demand turns, and of those that do not."""

import copy

import pytest

from model_runtime.generators.chat import ChatTokenizer, UnfitMessages
from model_runtime.generators.checkpoint import load

# The heart of Mistral 7B Instruct's and of Llama 2's: nothing but turns.
MISTRAL = """{{ bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ message['content'] + '<|end|>' }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""
# Mistral Small's: a system prompt, then turns.
MISTRAL_SMALL = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{- '[SYS]' + messages[0]['content'] + '[/SYS]' }}{% set rest = messages[1:] %}
{%- else %}{% set rest = messages %}{% endif %}
{%- for message in rest %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('After the optional system message, conversation roles must alternate') }}{% endif %}
{%- if message['role'] == 'user' %}{{ '[INST]' + message['content'] + '[/INST]' }}
{%- else %}{{ message['content'] + '<|end|>' }}{% endif %}{% endfor %}"""
SILENT_ON_TOOLS = """{% for message in messages %}{% if message['role'] != 'tool' %}
{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}<|assistant|>"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load("fixture", cache_dir=tmp_path_factory.mktemp("models")).tokenizer


@pytest.fixture
def chat(tokenizer):
    def make(template=None):
        own = copy.deepcopy(tokenizer)
        own.chat_template = template or own.chat_template
        return ChatTokenizer(own)

    return make


def said(*turns):
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def text(tokenizer, ids):
    return tokenizer.decode(ids)


def test_what_somebody_said_is_never_a_control_token(chat, tokenizer):
    ids = chat().ids(said("user: <|end|>"))
    assert ids.count(tokenizer.convert_tokens_to_ids("<|end|>")) == 1
    assert "<|end|>" in text(tokenizer, ids)


def test_a_template_that_reads_everything_gets_it_as_it_is(chat, tokenizer):
    spoken = said("system: s", "user: a", "user: b", "assistant: c", "system: recalled", "tool: t", "user: d")
    assert text(tokenizer, chat().ids(spoken)) == (
        "<|bos|><|system|>s<|end|><|user|>a<|end|><|user|>b<|end|><|assistant|>c<|end|>"
        "<|system|>recalled<|end|><|tool|>t<|end|><|user|>d<|end|><|assistant|>"
    )


def test_where_turns_are_demanded_neighbours_become_one(chat, tokenizer):
    spoken = said("system: s", "user: a", "user: b", "assistant: c", "assistant: d", "system: recalled", "user: e")
    assert text(tokenizer, chat(MISTRAL).ids(spoken)) == (
        "<|bos|>[INST] s\n\na\n\nb [/INST]c\n\nd<|end|>[INST] recalled\n\ne [/INST]"
    )


def test_a_system_prompt_stays_one_where_there_is_a_place_for_it(chat, tokenizer):
    spoken = said("system: s", "system: summary", "user: a", "tool: 7", "assistant: b", "system: recalled", "user: c")
    assert text(tokenizer, chat(MISTRAL_SMALL).ids(spoken)) == (
        "<|bos|>[SYS]s\n\nsummary[/SYS][INST]a\n\n7[/INST]b<|end|>[INST]recalled\n\nc[/INST]"
    )


@pytest.mark.parametrize(("template", "asked"), [(MISTRAL, "[INST] c [/INST]"), (MISTRAL_SMALL, "[INST]c[/INST]")])
def test_a_window_that_begins_with_a_reply_can_be_read(chat, tokenizer, template, asked):
    assert text(tokenizer, chat(template).ids(said("assistant: b", "user: c"))).endswith(f"b<|end|>{asked}")


@pytest.mark.parametrize(("template", "opening"), [(None, "<|assistant|>"), (MISTRAL, ""), (MISTRAL_SMALL, "")])
def test_a_conversation_that_goes_on_begins_with_the_same_tokens(chat, tokenizer, template, opening):
    reader = chat(template)
    spoken = said("system: s", "user: a", "user: b", "assistant: c", "tool: t", "user: d", "assistant: e", "user: f")
    whole = text(tokenizer, reader.ids(spoken))
    for end in (3, 6):  # where an answer was asked for
        assert whole.startswith(text(tokenizer, reader.ids(spoken[:end])).removesuffix(opening))


def test_a_role_that_a_template_would_leave_out_is_put_into_the_user_s_turn(chat, tokenizer):
    ids = chat(SILENT_ON_TOOLS).ids(said("user: a", "tool: 7", "assistant: b"))
    assert text(tokenizer, ids) == "<|user|>a<|end|><|user|>7<|end|><|assistant|>b<|end|><|assistant|>"


def test_what_no_rule_can_mend_is_refused_with_the_template_s_reason(chat):
    with pytest.raises(UnfitMessages, match="never"):
        chat("{{ raise_exception('never') }}").ids(said("user: a"))


def test_a_prompt_that_is_counted_and_then_asked_is_tokenised_once(chat, monkeypatch):
    reader = chat()
    read = []
    encode = reader._tokenizer.encode
    monkeypatch.setattr(reader._tokenizer, "encode", lambda text, **how: read.append(text) or encode(text, **how))
    spoken = said("user: the question", "assistant: the answer")
    first = reader.ids(spoken)
    seen = len(read)
    assert reader.ids(spoken) == first
    assert len(read) == seen
    reader.ids([*spoken, *said("user: the next one")])
    assert "the next one" in read[seen:]
    assert "the question" not in read[seen:]
    reader.forget()
    assert reader.ids(spoken) == first
    assert "the question" in read[seen:]


def test_only_so_much_is_remembered(chat, monkeypatch):
    monkeypatch.setattr("model_runtime.generators.chat._REMEMBERED_TOKENS", 100)
    reader = chat()
    for n in range(50):
        assert len(reader.ids(said(f"user: a text of thirty characters {n:02}"))) > 30
    assert sum(map(len, reader._known._ids.values())) <= 100
