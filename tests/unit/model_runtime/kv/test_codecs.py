from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_runtime.kv.codecs import Codec, codec
from model_runtime.kv.shape import BLOCK, KVShape

SHAPE = KVShape(6, 2, 64, "float32")
K, V = 0, 1
STEPS = {"int8": 254, "int4": 14.9375}
"""Of the range of a group, before the step is rounded up to a bfloat16 (at most 1/128)."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for a core that others use took 27 s for tests of 3 s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def block(shape: KVShape = SHAPE, seed: int = 0) -> torch.Tensor:
    """Keys with a bias per channel and two channels of outliers, as models have them; values without."""
    torch.manual_seed(seed)
    x = torch.randn(shape.block_shape)
    x[:, :, K] += 3 * torch.randn(shape.layers, shape.kv_heads, 1, shape.head_dim)
    x[:, :, K, :, :2] *= 30
    return x.to(shape.torch_dtype)


def decoded(kind: Codec, data: list[bytes], shape: KVShape = SHAPE) -> torch.Tensor:
    into = torch.full(shape.block_shape, torch.nan, dtype=shape.torch_dtype)
    for layer, part in enumerate(data):
        kind.decode(layer, part, into[layer])
    return into


def error_in_ranges(x: torch.Tensor, back: torch.Tensor, half: int, axis: int, group: int) -> float:
    """The largest error as a part of the range of its group."""
    own, other = (t[:, :, half].movedim(axis, -1).unflatten(-1, (-1, group)).float() for t in (x, back))
    spread = own.amax(-1) - own.amin(-1)
    return float(((own - other).abs().amax(-1) / spread).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_exact_keeps_every_bit(dtype: str) -> None:
    shape = KVShape(2, 2, 16, dtype)
    x = block(shape)
    x.view(torch.uint8).view(-1)[:4] = 255  # a NaN with a payload
    kind = codec("exact", shape)
    data = kind.encode(x)

    assert torch.equal(decoded(kind, data, shape).view(torch.uint8), x.view(torch.uint8))
    assert [len(part) for part in data] == [shape.layer_bytes] * 2


def test_exact_reads_and_writes_tensors_that_are_not_contiguous() -> None:
    shape = KVShape(1, 2, 16, "bfloat16")
    x = block(shape)
    kind = codec("exact", shape)
    into = torch.empty(2, 2, 16, BLOCK, dtype=torch.bfloat16).transpose(2, 3)
    kind.decode(0, kind.encode(x.transpose(3, 4).contiguous().transpose(3, 4))[0], into)

    assert torch.equal(into, x[0])


def test_int8_is_within_half_a_step() -> None:
    x = block()
    kind = codec("int8", SHAPE)
    back = decoded(kind, kind.encode(x))
    bound = 0.5 / STEPS["int8"] * (1 + 1 / 128) * 1.01

    assert error_in_ranges(x, back, K, 2, BLOCK) < bound
    assert error_in_ranges(x, back, V, 3, 64) < bound


def test_int4_is_within_half_a_step_between_its_int8_ends() -> None:
    x = block()
    kind = codec("int4", SHAPE)
    back = decoded(kind, kind.encode(x))
    bound = 0.5 / STEPS["int4"] * (1 + 1 / 128) * 1.01
    middle = slice(2, 4)

    assert error_in_ranges(x[middle], back[middle], K, 2, 64) < bound
    assert error_in_ranges(x[middle], back[middle], V, 3, 64) < bound
    ends = [0, 1, 4, 5]
    assert torch.equal(back[ends], decoded(codec("int8", SHAPE), codec("int8", SHAPE).encode(x))[ends])


def test_the_sink_block_is_never_below_int8() -> None:
    x = block()
    assert codec("int4", SHAPE).encode(x, sink=True) == codec("int8", SHAPE).encode(x)
    assert codec("int8", SHAPE).encode(x, sink=True) == codec("int8", SHAPE).encode(x)
    assert codec("exact", SHAPE).encode(x, sink=True) == codec("exact", SHAPE).encode(x)


def test_the_sizes_are_a_quarter_and_an_eighth_of_float32() -> None:
    shape = KVShape(5, 2, 128, "float32")
    x = block(shape)
    int8 = codec("int8", shape).encode(x)
    int4 = codec("int4", shape).encode(x)

    assert len(int8[0]) / shape.layer_bytes == pytest.approx(0.255, abs=0.001)
    assert len(int4[2]) / shape.layer_bytes == pytest.approx(0.141, abs=0.001)
    assert [len(part) for part in int4] == [len(int8[0])] * 2 + [len(int4[2])] + [len(int8[0])] * 2


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("head_dim", [80, 63, 64])
def test_other_head_dimensions_and_types_come_back(name: str, dtype: str, head_dim: int) -> None:
    shape = KVShape(5, 1, head_dim, dtype)
    x = block(shape)
    kind = codec(name, shape)
    back = decoded(kind, kind.encode(x), shape)

    assert (x - back).float().pow(2).mean() < x.float().pow(2).mean() * {"int8": 2e-4, "int4": 2e-2}[name]


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_numbers_on_a_large_bias_keep_their_differences(name: str) -> None:
    x = torch.randn(SHAPE.block_shape) + 40
    kind = codec(name, SHAPE)
    back = decoded(kind, kind.encode(x))

    assert (x - back).abs().max() < {"int8": 0.02, "int4": 0.35}[name]


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("value", [0.0, 1.0, -7.3, 1e-35, -65504.0, 1e30])
def test_groups_of_one_number_come_back(name: str, value: float) -> None:
    x = torch.full(SHAPE.block_shape, value)
    kind = codec(name, SHAPE)

    torch.testing.assert_close(decoded(kind, kind.encode(x)), x, rtol=3e-4, atol=1e-30)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_the_largest_float16_does_not_become_infinite(name: str) -> None:
    shape = KVShape(1, 1, 64, "float16")
    x = torch.randn(shape.block_shape).to(torch.float16)
    x[..., 5] = 65504
    kind = codec(name, shape)

    assert decoded(kind, kind.encode(x), shape).isfinite().all()


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_what_has_no_step_is_refused(name: str, value: float) -> None:
    x = block()
    x[3, 1, 1, 500, 60] = value
    with pytest.raises(ValueError, match="finite"):
        codec(name, SHAPE).encode(x)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(-20, 20), st.floats(-20, 20), st.sampled_from(["int8", "int4"]))
def test_any_scale_and_offset_is_within_its_bound(seed: int, scale: float, offset: float, name: str) -> None:
    shape = KVShape(5, 1, 64, "float32")
    torch.manual_seed(seed)
    x = (torch.rand(shape.block_shape) * 2**scale + offset).float()
    kind = codec(name, shape)
    back = decoded(kind, kind.encode(x), shape)
    # The second part is for ranges that are tiny beside their offset: the zero point has 16 bits.
    limit = 2**scale / STEPS[name] / 2 * 1.03 + (abs(offset) + 2**scale) * {"int8": 2e-5, "int4": 3e-4}[name]

    assert (x - back)[2].abs().max() < limit


@pytest.mark.parametrize("name", ["exact", "int8", "int4"])
def test_the_same_bytes_give_the_same_numbers(name: str) -> None:
    x = block()
    kind = codec(name, SHAPE)
    data = kind.encode(x)

    assert data == kind.encode(x.clone())
    views = [memoryview(part) for part in data]
    again = torch.empty(SHAPE.block_shape)
    for layer, part in enumerate(views):
        kind.decode(layer, part, again[layer])
    assert torch.equal(decoded(kind, data), again)


@pytest.mark.parametrize("name", ["exact", "int8", "int4"])
def test_bytes_of_another_length_write_nothing(name: str) -> None:
    kind = codec(name, SHAPE)
    data = kind.encode(block())[2]
    into = torch.full(SHAPE.layer_shape, 5.0)
    for bad in (b"", data[:-1], data[1:], data + b"\x08", data[:-1] + b"\x05", data[: len(data) // 2] + data[-1:]):
        if len(bad) == len(data) and name == "exact":
            continue
        with pytest.raises(ValueError, match="are not a layer"):
            kind.decode(2, bad, into)

    assert bool((into == 5).all())


def test_bytes_of_another_codec_are_refused() -> None:
    into = torch.empty(SHAPE.layer_shape)
    data = {name: codec(name, SHAPE).encode(block())[2] for name in ("exact", "int8", "int4")}
    for name, other in [("exact", "int8"), ("exact", "int4"), ("int8", "int4"), ("int8", "exact"), ("int4", "exact")]:
        with pytest.raises(ValueError, match="are not a layer"):
            codec(name, SHAPE).decode(2, data[other], into)


@pytest.mark.parametrize("name", ["exact", "int8", "int4"])
def test_tensors_of_another_shape_are_refused(name: str) -> None:
    kind = codec(name, SHAPE)
    data = kind.encode(block())
    with pytest.raises(ValueError, match="does not fit"):
        kind.decode(0, data[0], torch.empty(2, 2, BLOCK, 63))
    with pytest.raises(ValueError, match="does not fit"):
        kind.decode(6, data[0], torch.empty(SHAPE.layer_shape))
    with pytest.raises(ValueError, match="is not a block"):
        kind.encode(block()[1:])
    with pytest.raises(ValueError, match="is not a block"):
        kind.encode(block().to(torch.float16))


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="no codec"):
        codec("fp8", SHAPE)
