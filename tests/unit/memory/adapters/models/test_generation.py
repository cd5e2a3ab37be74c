"""How long may a prompt be, and what does the model read of who speaks?"""

import pytest

from memory.adapters.models.generation import load_generator, messages_of
from memory.adapters.models.settings import GenerationSettings
from memory.domain.errors import PromptTooLong
from memory.domain.generation import ChatMessage, Fidelity, Finished, Prompt, Sampling


@pytest.fixture
def opened(tmp_path):
    generators = []

    def open_(**settings):
        found = load_generator("fixture", tmp_path, GenerationSettings(threads=1, **settings), lambda *of: "/".join(of))
        generators.append(found)
        return found

    yield open_
    for generator in generators:
        generator.close()


def asked(length, fidelity=Fidelity.EXACT):
    message = ChatMessage("user", "abcdefgh" * (length // 8))
    return Prompt((message,), Sampling(temperature=0, max_tokens=4), None, "tenant", "group", fidelity)


async def answer(generator, prompt):
    return [chunk async for chunk in generator.generate(prompt)]


async def test_a_prompt_may_be_longer_than_the_device(opened):
    generator = opened(device_mib=4, host_mib=8, disk_mib=0)
    chunks = await answer(generator, asked(5_000))
    assert isinstance(chunks[-1], Finished)
    assert generator.stats().streamed_bytes["host"] > 0


async def test_a_prompt_that_no_tier_has_room_for_is_refused_and_told_why(opened):
    generator = opened(device_mib=4, host_mib=8, disk_mib=0)
    assert generator.max_tokens < 6_000
    with pytest.raises(PromptTooLong, match="all tiers together hold the KV of") as refused:
        await answer(generator, asked(8_000))
    assert "HOST_MIB" in str(refused.value)


async def test_quantised_kv_takes_longer_prompts(opened):
    generator = opened(device_mib=4, host_mib=8, disk_mib=0)
    chunks = await answer(generator, asked(8_000, Fidelity.INT8))
    assert isinstance(chunks[-1], Finished)


def test_the_model_reads_which_user_says_what():
    said = [ChatMessage("user", "hello", "maya"), ChatMessage("assistant", "hi", "bot"), ChatMessage("user", "there")]
    assert [message["content"] for message in messages_of(said)] == ["maya: hello", "hi", "there"]
