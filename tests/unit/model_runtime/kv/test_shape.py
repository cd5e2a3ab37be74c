import pytest

from model_runtime.kv.shape import BLOCK, SUBPAGE, KVShape


@pytest.mark.parametrize(("dtype", "item"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_the_bytes_are_those_of_the_tensor(dtype: str, item: int) -> None:
    shape = KVShape(3, 2, 16, dtype)
    block = shape.empty_block()

    assert list(block.shape) == [3, 2, 2, BLOCK, 16]
    assert block.element_size() == item
    assert block.nbytes == shape.block_bytes
    assert block[0].nbytes == shape.layer_bytes
    assert block.dtype == shape.torch_dtype


def test_the_published_figure_of_llama_8b_is_met() -> None:
    assert KVShape(32, 8, 128, "bfloat16").block_bytes == 128 * 1024 * BLOCK


def test_sub_pages_fill_a_block() -> None:
    assert BLOCK % SUBPAGE == 0


@pytest.mark.parametrize("dtype", ["int8", "float64", "torch.float32", ""])
def test_another_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match="kept as"):
        KVShape(1, 1, 1, dtype)


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_a_shape_of_nothing_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        KVShape(*numbers, "float32")
