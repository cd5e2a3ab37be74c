"""Which model, without training or a download, shows at any length whether the right keys and values were read?

A stock two-layer Llama whose weights are written down here: an induction head. After "... A B ... A" it says B. Layer
0 copies the code of the token before; layer 1 looks for the place whose token before is the current one, and copies
the token that stands there. A token is known by a fixed code of 44 numbers, and RMSNorm weights undo the norm, which
is the same for every token. Where a token occurred several times, its followers are mixed. The first token of all
is taken for its own predecessor, so texts begin with one that nobody asks for: <|bos|>.
"""

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

FIXTURE_NAME = "stratamem-fixture-handwired-recall"
VERSION = 1
"""Raised when the same arguments give other files."""

SPECIAL_TOKENS = ("<|bos|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
"""Their ids follow the 256 bytes, each of which is its own id."""

MAX_POSITIONS = 1 << 20

_VOCABULARY = 256 + len(SPECIAL_TOKENS)
_HIDDEN, _HEAD = 144, 128
_PAIRS = _HEAD // 2  # RoPE turns channel i together with channel i + 64
_THETA = 1e10

_CODE = 44
_OWN, _PREVIOUS, _RECALLED = (slice(start, start + _CODE) for start in (0, 48, 96))

# Sums of 16 cosines that turn fast have one peak: up to 2^20 positions away no other is closer to it than its
# neighbours are (0.92 of 16), which attention scores 60 * 3 / sqrt(128) set to 14.7, a leak of 8e-7.
_CLOCK = np.arange(16)
_CLOCK_QUERY, _CLOCK_KEY = 60.0, 3.0

# The 22 slowest pairs turn by 0.04 at most within 131,072 positions: codes are compared as they are.
_MATCH = np.concatenate([np.arange(_PAIRS - _CODE // 2, _PAIRS), np.arange(_HEAD - _CODE // 2, _HEAD)])

_UNREAD_PAIR = 41
"""No query has a part here, so a key may have any."""

_SEED = 7
_CLOSEST = 0.35
_LOGIT = 20.0
"""Of a token that was recalled without doubt; the others are below 7."""

_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

Weights = dict[str, NDArray[np.float32]]


def write_fixture(folder: Path, *, margin: float = 24.0, outliers: float = 1.0) -> Path:
    """Writes the checkpoint, all of it or nothing; returns at once where `folder` holds this one already.

    margin: by how much the attention score of a match leads that of an unrelated token. Of the mass, 131,072
    unrelated tokens take 0.1 % at 24, 1 % at 20 and a third at 15.
    outliers: keys get channels this many times larger, and the function stays the same.
    An older version is replaced; raises FileExistsError where something else lies there.
    """
    if margin <= 0 or outliers <= 0:
        raise ValueError(f"margin and outliers are positive, not {margin} and {outliers}")
    identity = {"name": FIXTURE_NAME, "version": VERSION, "margin": float(margin), "outliers": float(outliers)}
    if _identity(folder) == identity:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
        new = Path(beside, "new")
        new.mkdir()
        _write_files(new, identity, _weights(margin, outliers))
        if folder.exists():
            folder.rename(Path(beside, "old"))
        try:
            new.rename(folder)
        except OSError:
            if _identity(folder) != identity:  # else another process was faster
                raise
    return folder


def _identity(folder: Path) -> Any:
    """What the fixture in `folder` was written from, None where the folder is absent or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config["stratamem_fixture"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise FileExistsError(f"{folder} holds something that is not {FIXTURE_NAME}") from e


def _write_files(folder: Path, identity: dict[str, Any], weights: Weights) -> None:
    bos, end, pad = (256 + SPECIAL_TOKENS.index(token) for token in ("<|bos|>", "<|end|>", "<|pad|>"))
    ids = {"bos_token_id": bos, "eos_token_id": end, "pad_token_id": pad}
    _write_json(folder / "config.json", _config() | ids | {"stratamem_fixture": identity})
    _write_json(folder / "generation_config.json", ids | {"do_sample": False})
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    (folder / "tokenizer.json").write_text(_tokenizer_json(), encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _config() -> dict[str, Any]:
    return {
        "_name_or_path": FIXTURE_NAME,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _VOCABULARY,
        "hidden_size": _HIDDEN,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": _HEAD,
        "hidden_act": "silu",
        "attention_bias": True,
        "mlp_bias": False,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_parameters": {"rope_type": "default", "rope_theta": _THETA},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
        # "<|end|>" in a text is seven bytes. Who renders a chat asks for control tokens: split_special_tokens=False.
        "split_special_tokens": True,
        "chat_template": _CHAT_TEMPLATE,
    }


def _tokenizer_json() -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab={_letter(byte): byte for byte in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    return str(tokenizer.to_str())


def _letter(byte: int) -> str:
    """The character that stands for a byte in a byte-level vocabulary, after GPT-2: printable bytes are themselves."""
    hidden = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
    return chr(0x100 + hidden.index(byte)) if byte in hidden else chr(byte)


def _weights(margin: float, outliers: float) -> Weights:
    codes = _codes()
    embeddings = np.zeros((_VOCABULARY, _HIDDEN), np.float32)
    embeddings[:, _OWN] = codes
    head = np.zeros_like(embeddings)
    head[:, _RECALLED] = codes * (_LOGIT / _CODE)
    attentions = [_previous_token(), _same_token(margin)]
    if outliers != 1:
        _add_outliers(attentions[0], int(_CLOCK[0]), outliers)
        _add_outliers(attentions[1], int(_MATCH[0]), outliers)
    weights = {"model.embed_tokens.weight": embeddings, "lm_head.weight": head, "model.norm.weight": _undo_norm(3)}
    for i, attention in enumerate(attentions):
        layer = {f"self_attn.{name}": values for name, values in attention.items()} | _no_mlp()
        layer |= {"input_layernorm.weight": _undo_norm(i + 1), "post_attention_layernorm.weight": _undo_norm(i + 2)}
        weights |= {f"model.layers.{i}.{name}": values for name, values in layer.items()}
    return weights


def _codes() -> NDArray[np.float64]:
    """float64 [vocabulary, 44], each of length sqrt(44), no two with a cosine above 0.35.

    From uniform numbers of Python's generator, which are the same on every machine and in every version.
    """
    uniform = random.Random(_SEED).uniform  # noqa: S311  # not a secret
    codes = np.empty((0, _CODE))
    while len(codes) < _VOCABULARY:
        candidate = np.array([uniform(-1, 1) for _ in range(_CODE)])
        candidate *= np.sqrt(_CODE / np.sum(candidate**2))
        if not (codes @ candidate > _CLOSEST * _CODE).any():
            codes = np.vstack([codes, candidate])
    return codes


def _undo_norm(codes: int) -> NDArray[np.float32]:
    """The RMSNorm weight [hidden] that gives a sum of so many codes back as it was."""
    return np.full(_HIDDEN, np.sqrt(codes * _CODE / _HIDDEN), np.float32)


def _previous_token() -> Weights:
    """Layer 0: the same query and key everywhere, turned so that they agree at a distance of one."""
    attention = _copy_into(_PREVIOUS)
    step = _THETA ** (-_CLOCK / _PAIRS)
    attention["k_proj.bias"][_CLOCK] = _CLOCK_KEY
    attention["q_proj.bias"][_CLOCK] = _CLOCK_QUERY * np.cos(step)
    attention["q_proj.bias"][_CLOCK + _PAIRS] = -_CLOCK_QUERY * np.sin(step)
    return attention


def _same_token(margin: float) -> Weights:
    """Layer 1: the query is the current token, a key the token before."""
    attention = _copy_into(_RECALLED)
    attention["q_proj.weight"][_MATCH, _OWN] = np.eye(_CODE) * (margin * np.sqrt(_HEAD) / _CODE)
    attention["k_proj.weight"][_MATCH, _PREVIOUS] = np.eye(_CODE)
    return attention


def _copy_into(target: slice) -> Weights:
    """Attention that writes the own code of what it reads to `target`; its scores are all zero."""
    attention: Weights = {
        f"{name}.weight": np.zeros((_HEAD, _HIDDEN), np.float32) for name in ("q_proj", "k_proj", "v_proj")
    }
    attention |= {f"{name}.bias": np.zeros(_HEAD, np.float32) for name in ("q_proj", "k_proj", "v_proj")}
    attention |= {"o_proj.weight": np.zeros((_HIDDEN, _HEAD), np.float32), "o_proj.bias": np.zeros(_HIDDEN, np.float32)}
    attention["v_proj.weight"][:_CODE, _OWN] = np.eye(_CODE)
    attention["o_proj.weight"][target, :_CODE] = np.eye(_CODE)
    return attention


def _add_outliers(attention: Weights, pair: int, scale: float) -> None:
    """In place. What the key gains in one pair the query loses; in the unread pair it only gains."""
    channels = [pair, pair + _PAIRS]
    for kind in ("weight", "bias"):
        attention[f"k_proj.{kind}"][channels] *= scale
        attention[f"q_proj.{kind}"][channels] /= scale
    attention["k_proj.bias"][_UNREAD_PAIR] = scale


def _no_mlp() -> Weights:
    narrow, wide = np.zeros((16, _HIDDEN), np.float32), np.zeros((_HIDDEN, 16), np.float32)
    return {"mlp.gate_proj.weight": narrow, "mlp.up_proj.weight": narrow.copy(), "mlp.down_proj.weight": wide}
