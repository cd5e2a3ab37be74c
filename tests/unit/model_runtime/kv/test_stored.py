import struct
from dataclasses import replace

import pytest
from safetensors.numpy import load

from model_runtime.kv import stored
from model_runtime.kv.identity import block_id
from model_runtime.kv.shape import BLOCK
from model_runtime.kv.stored import DamagedBlock, StoredBlock, read_block, read_container, to_file

NAMESPACE = b"\x07" * 32
TOKENS = tuple(range(1_000, 1_000 + BLOCK))
BLOCK_ID = block_id(NAMESPACE, None, TOKENS)
BLOCK_0 = StoredBlock(BLOCK_ID, None, 0, NAMESPACE, TOKENS, "int8", (b"first layer", b"second", b"third one"))


def read_from(content: bytes, offset: int, length: int) -> bytes:
    if offset + length > len(content):
        raise DamagedBlock("cut off")
    return content[offset : offset + length]


def read(content: bytes, layers: list[int] | None = None) -> StoredBlock:
    return read_block(lambda *at: read_from(content, *at), len(content), BLOCK_ID, TOKENS, layers)


def test_a_block_comes_back_as_it_was() -> None:
    assert read(to_file(BLOCK_0)) == BLOCK_0
    assert BLOCK_0.nbytes == 26


def test_the_file_is_a_safetensors_file() -> None:
    tensors = load(to_file(BLOCK_0))

    assert tensors["tokens"].tolist() == list(TOKENS)
    assert tensors["layer.00001"].tobytes() == b"second"


def test_no_flipped_byte_of_the_file_gives_another_block() -> None:
    content = to_file(BLOCK_0)
    for i in range(len(content)):
        for flip in (0x01, 0x10, 0x80, 0xFF):
            with pytest.raises(DamagedBlock):
                read(content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :])


def test_no_part_of_the_file_gives_a_block() -> None:
    content = to_file(BLOCK_0)
    for length in range(len(content)):
        with pytest.raises(DamagedBlock):
            read(content[:length])
    for more in (b"\0", content):
        with pytest.raises(DamagedBlock):
            read(content + more)


def test_layers_that_changed_places_in_the_header_are_noticed() -> None:
    block = replace(BLOCK_0, layers=(b"layer A", b"layer B"))
    content = to_file(block)
    swapped = content.replace(b"layer.00000", b"layer.xxxxx").replace(b"layer.00001", b"layer.00000")
    with pytest.raises(DamagedBlock):
        read(swapped.replace(b"layer.xxxxx", b"layer.00001"))
    with pytest.raises(DamagedBlock):
        read(content.replace(b"layer A", b"layer C").replace(b"layer B", b"layer A"))


@pytest.mark.parametrize("header", [b"", b"{}", b"[]", b"null", b'{"__metadata__":{}}', b"[" * 9_000, b"\xff\xff"])
def test_a_header_of_other_content_is_damage(header: bytes) -> None:
    content = struct.pack("<Q", len(header)) + header + bytes(4_000)
    with pytest.raises(DamagedBlock):
        read_container(lambda *at: read_from(content, *at), len(content))


def test_a_header_that_claims_to_be_huge_is_not_read() -> None:
    content = struct.pack("<Q", 1 << 60) + bytes(4_000)
    with pytest.raises(DamagedBlock, match="length"):
        read_container(lambda *at: read_from(content, *at), len(content))


def test_a_sealed_header_of_an_impossible_block_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    content = to_file(BLOCK_0).replace(b'"index":"0"', b'"index":"1"')
    seal = stored._seal
    with monkeypatch.context() as patch:
        patch.setattr(stored, "_seal", lambda metadata: seal(metadata | {"index": "0"}))
        with pytest.raises(DamagedBlock, match="without"):
            read(content)


def test_an_id_that_does_not_follow_is_not_written() -> None:
    with pytest.raises(ValueError, match="follows"):
        to_file(replace(BLOCK_0, namespace=b"\x08" * 32))


def test_blocks_that_do_not_hang_together_are_refused() -> None:
    with pytest.raises(ValueError, match="start or follow"):
        replace(BLOCK_0, token_ids=TOKENS[1:])
    with pytest.raises(ValueError, match="start or follow"):
        replace(BLOCK_0, index=1)
    with pytest.raises(ValueError, match="start or follow"):
        replace(BLOCK_0, parent=b"\x01" * 32)
    for layers in ((), (b"", b"a")):
        with pytest.raises(ValueError, match="layers"):
            to_file(replace(BLOCK_0, layers=layers))
