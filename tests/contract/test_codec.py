"""What every codec keeps to: what comes back, how large it is, and that nothing damaged or foreign is believed."""

import numpy as np
import pytest

from memory.adapters.codecs.plain import Float16, Int8
from memory.adapters.codecs.quantised import product, residual
from memory.adapters.codecs.sealed import SealedCodec
from memory.adapters.models.vqvae import LearnedCodec
from memory.domain.errors import CodebookDamaged, CodeUnreadable

DIMENSIONS, STRETCH = 32, 8
SEALS = 9
LEARNED = LearnedCodec(segments=STRETCH, latent=16, groups=4, stages=2, width=8, steps=100)
# payload bytes of a stretch of eight, and the least mean cosine of what comes back
METHODS = {
    "float16": (Float16(), 2 * DIMENSIONS * STRETCH, 0.9999),
    "int8": (Int8(), DIMENSIONS * STRETCH, 0.999),
    "pq": (product(8), 8 * STRETCH, 0.8),
    "rq": (residual(8), 8 * STRETCH, 0.8),
    "vqvae": (LEARNED, 8, 0.2),
}


def stretches(seed=0, count=160):
    """Unit vectors near a plane of eight dimensions, as texts' lie near few."""
    draw = np.random.default_rng(seed)
    plane = np.random.default_rng(99).standard_normal((8, DIMENSIONS))
    vectors = draw.standard_normal((count * STRETCH, 8)) @ plane + draw.standard_normal((count * STRETCH, DIMENSIONS))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return list(vectors.reshape(count, STRETCH, DIMENSIONS))


@pytest.fixture(scope="module")
def codebooks():
    return {name: SealedCodec(method).train(stretches(), lambda done: True) for name, (method, *_) in METHODS.items()}


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


@pytest.fixture
def codec(name):
    return SealedCodec(METHODS[name][0])


@pytest.fixture
def coder(name, codec, codebooks):
    return codec.open(codebooks[name], DIMENSIONS)


def test_vectors_come_back_alike_and_of_unit_length(name, coder):
    _, size, least = METHODS[name]
    cosines = []
    for stretch in stretches(seed=1, count=20):
        code = coder.encode(stretch)
        assert len(code) == size + SEALS
        found = coder.decode(code)
        assert (found.shape, found.dtype) == (stretch.shape, np.float32)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        cosines += list((found * stretch).sum(1))
    assert np.mean(cosines) >= least


@pytest.mark.parametrize("count", [1, 3, 7, 9, 255])
def test_a_stretch_may_have_any_length(coder, count):
    vectors = np.concatenate(stretches(seed=2, count=32))[:count]
    assert coder.decode(coder.encode(vectors)).shape == vectors.shape


def test_the_same_vectors_make_the_same_code_and_it_the_same_vectors(name, codec, coder, codebooks):
    stretch = stretches(seed=3, count=1)[0]
    again = codec.open(codebooks[name], DIMENSIONS)
    assert coder.encode(stretch) == again.encode(stretch)
    assert (coder.decode(coder.encode(stretch)) == again.decode(again.encode(stretch))).all()


def test_training_twice_learns_the_same(name, codec, codebooks):
    assert codec.train(stretches(), lambda done: True) == codebooks[name]


def test_damage_anywhere_in_a_code_is_refused(coder):
    code = coder.encode(stretches(count=1)[0])
    for place in range(0, len(code), 3):
        damaged = bytearray(code)
        damaged[place] ^= 0x40
        with pytest.raises(CodeUnreadable):
            coder.decode(bytes(damaged))
    for shorter in (code[:-1], code[:5], b"", code + b"\0"):
        with pytest.raises(CodeUnreadable):
            coder.decode(shorter)


def test_damage_anywhere_in_a_codebook_is_refused(name, codec, codebooks):
    codebook = codebooks[name]
    for place in [*range(min(40, len(codebook))), len(codebook) // 2, len(codebook) - 1]:
        damaged = bytearray(codebook)
        damaged[place] ^= 0x01
        with pytest.raises(CodebookDamaged):
            codec.open(bytes(damaged), DIMENSIONS)
    for shorter in (codebook[:-1], codebook[:9], b""):
        with pytest.raises(CodebookDamaged):
            codec.open(shorter, DIMENSIONS)


def test_a_codebook_of_another_codec_or_other_dimensions_is_refused(name, codec, codebooks):
    with pytest.raises(CodebookDamaged):
        codec.open(codebooks[name], DIMENSIONS + 8)
    for other in set(METHODS) - {name}:
        with pytest.raises(CodebookDamaged):
            codec.open(codebooks[other], DIMENSIONS)


def test_a_code_of_another_codebook_is_refused(name, codec, coder):
    if codec.least == 0:
        pytest.skip("learns nothing: there is one codebook")
    later = codec.open(codec.train(stretches(seed=7), lambda done: True), DIMENSIONS)
    with pytest.raises(CodeUnreadable):
        later.decode(coder.encode(stretches(count=1)[0]))


@pytest.mark.parametrize(
    "vectors",
    [np.zeros((0, DIMENSIONS)), np.zeros((256, DIMENSIONS)), np.zeros((3, 5)), np.zeros(DIMENSIONS)],
)
def test_what_is_no_stretch_is_the_callers_mistake(coder, vectors):
    with pytest.raises(ValueError, match="is not"):
        coder.encode(vectors.astype(np.float32))


def test_numbers_that_are_not_finite_are_refused(coder):
    stretch = stretches(count=1)[0].copy()
    stretch[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        coder.encode(stretch)


def test_training_that_is_ended_gives_what_was_learned_so_far(codec):
    codebook = codec.train(stretches(count=130), lambda done: False)
    coder = codec.open(codebook, DIMENSIONS)
    assert coder.decode(coder.encode(stretches(count=1)[0])).shape == (STRETCH, DIMENSIONS)
