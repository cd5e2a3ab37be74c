"""The same answers as transformers' own attention, whatever the pieces in which a prompt is computed."""

from collections import Counter

import pytest
import torch
from transformers import (
    AttentionInterface,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from model_runtime.kv.arena import Arena
from model_runtime.kv.codecs import Exact
from model_runtime.kv.sequence import SequenceKV, attention
from model_runtime.kv.shape import BLOCK, KVShape
from model_runtime.kv.staging import Source, Staging

AttentionInterface.register("stratamem", attention)
SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4_096,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=16)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)),
    "mistral, window of 700": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=700)),
    "mistral, window of 512": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=512)),
    "mistral, window of 40": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=40)),
}
TOKENS = 1_650


SHAPE = KVShape(2, 2, 16, "float32")


class Block:
    def __init__(self, slot):
        self.slot = slot


class Device:
    """An arena, and elsewhere the blocks whose places are in `absent`."""

    def __init__(self, absent=(), at_once=1):
        self.arena = Arena(SHAPE, 16)
        self.staging = Staging(SHAPE, at_once)
        self.absent = absent
        self.kept = {}

    def full(self, slot, place):
        block = Block(slot)
        if place in self.absent:
            self.kept[block] = Exact(SHAPE).encode(self.arena.block(slot))
            for layer in self.arena.layers:
                layer[slot] = torch.nan
            block.slot = None
        return block

    def stream(self, layer, runs):
        loads = [[Source(block, Exact(SHAPE), self.kept[block].__getitem__) for block in run] for run in runs]
        return self.staging.stream(layer, loads)


def computed(model, ids, pieces, slots=None, device=None):
    """Logits of all tokens, in pieces of at most these lengths."""
    device = device or Device()
    free = iter(slots or range(16))
    kv, found, at = SequenceKV(device.arena, device.stream, device.staging.blocks), [], 0
    pieces = [*pieces, *[BLOCK] * 8]
    while at < ids.shape[1]:
        left = min(pieces.pop(0), ids.shape[1] - at)
        while left:
            if not at % BLOCK:
                kv.blocks += [] if kv.own is None else [device.full(kv.own, len(kv.blocks))]
                kv.own = next(free)
            n = min(left, kv.room)
            places = torch.arange(at, at + n)[None]
            states = model.model(input_ids=ids[:, at : at + n], position_ids=places, use_cache=False, kv=[kv])
            found.append(model.lm_head(states.last_hidden_state)[0])
            kv.length, at, left = kv.length + n, at + n, left - n
    return torch.cat(found)


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


@torch.inference_mode()
def test_pieces_of_a_prompt_give_what_the_whole_gives(model):
    ids = torch.randint(0, 97, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    expected = model(ids).logits[0]
    model.set_attn_implementation("stratamem")
    for pieces in ([BLOCK], [300, 50, 1, 1, 1, 400], [1, 511, 512, 13]):
        found = computed(model, ids, pieces)
        assert (found - expected).abs().max() < 2e-5
        assert (found.argmax(-1) == expected.argmax(-1)).all()


@torch.inference_mode()
def test_where_blocks_lie_changes_no_bit():
    torch.manual_seed(0)
    model = MODELS["llama"]().eval()
    model.set_attn_implementation("stratamem")
    ids = torch.randint(0, 97, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    in_a_row, scattered = computed(model, ids, [BLOCK]), computed(model, ids, [BLOCK], slots=[9, 3, 4, 0, 15])
    assert torch.equal(in_a_row, scattered)


@torch.inference_mode()
@pytest.mark.parametrize(("absent", "at_once"), [({0}, 1), ({0, 1, 2}, 2), ({0, 2}, 16)])
def test_blocks_that_are_not_on_the_device_give_the_same_bits(model, absent, at_once):
    ids = torch.randint(0, 97, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    model.set_attn_implementation("stratamem")
    pieces = [BLOCK, BLOCK, 511, 1]
    assert torch.equal(computed(model, ids, pieces), computed(model, ids, pieces, device=Device(absent, at_once)))


class Every:
    """Reads every second block, and nothing else is asked of it."""

    def __init__(self):
        self.missed = Counter()

    def choose(self, layer, q, blocks, length):
        return range(0, blocks, 2)

    def samples(self, layer):
        return False


@pytest.mark.parametrize("slots", [[0, 2, 1, 3, 4], [9, 3, 8, 0, 1], [0, 1, 2, 3, 4]])
def test_blocks_that_are_left_out_are_left_out_wherever_the_others_lie(slots):
    arena = Arena(SHAPE, 16)
    kv = SequenceKV(arena, retrieval=Every())
    kv.blocks, kv.own, kv.length = [Block(slot) for slot in slots[:4]], slots[4], 4 * BLOCK
    draw = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 2, 4 * BLOCK + 1, 16, generator=draw)
    for place, slot in enumerate(slots[:4]):
        arena.layers[0][slot] = torch.stack([keys, values], 1)[:, :, place * BLOCK : (place + 1) * BLOCK]
    q = torch.randn(4, 1, 16, generator=draw)
    found = kv.attend(0, q, keys[:, -1:], values[:, -1:], 0.25, None)[0]
    seen = (torch.arange(4 * BLOCK + 1) // BLOCK) % 2 == 0
    scores = (q.view(2, 2, 16) @ keys[:, seen].mT * 0.25).softmax(-1)
    assert torch.allclose(found, (scores @ values[:, seen]).view(4, 16), atol=1e-5)


def test_what_changes_the_scores_behind_our_back_is_refused():
    with pytest.raises(NotImplementedError, match="softcap"):
        attention(None, *[torch.zeros(1, 1, 1, 4)] * 3, None, softcap=30.0)
