"""Which checkpoints can be run, and what does one need? Real ones through transformers, the fixture by name.

A model is "fixture", a folder, or a hub id. Weights are safetensors, code from a model is never run. What would
change the attention behind our back is refused with the reason.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_runtime.embedders.folder import ModelFolder, UnusableModel, find
from model_runtime.embedders.packed import pack_linears
from model_runtime.generators.fixture import FIXTURE_NAME, write_fixture
from model_runtime.kv.identity import weights_fingerprint
from model_runtime.kv.sequence import SequenceKV, attention
from model_runtime.kv.shape import KVShape

if TYPE_CHECKING:
    import torch

FIXTURE = "fixture"
ATTENTION = "stratamem"
_SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
# They change old keys when the context grows: KV that was kept would be wrong.
_MOVING_ROPE = ("dynamic", "longrope")
_DTYPES = {"cpu": "float32", "cuda": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model. `facts`: what its KV depends on, for the namespace."""

    name: str
    model: Any
    tokenizer: Any
    shape: KVShape
    max_tokens: int
    device: str
    facts: dict[str, Any]
    stop_ids: frozenset[int]


def load(name: str, *, cache_dir: Path, dtype: str | None = None) -> Checkpoint:
    """Loads "fixture" (written below `cache_dir` once), a folder or a hub id. Takes seconds. Raises UnusableModel."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = _folder(name, cache_dir)
    try:
        config = transformers.AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
        check(config)
        model = _model(folder, device, dtype or _DTYPES[device])
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise UnusableModel(f"{folder.path} can't be loaded: {error}") from error
    config = model.config
    shape = _shape(config, dtype or _DTYPES[device])
    return Checkpoint(
        name=FIXTURE_NAME if name == FIXTURE else folder.name,
        model=model,
        tokenizer=tokenizer,
        shape=shape,
        max_tokens=int(config.max_position_embeddings),
        device=device,
        facts=_facts(config, folder, {"torch": torch.__version__, "transformers": transformers.__version__}),
        stop_ids=_stop_ids(model, tokenizer),
    )


def token_ids(name: str, cache_dir: Path, text: str) -> list[int]:
    """Of a text without what a template puts around it. Raises UnusableModel."""
    import transformers

    folder = _folder(name, cache_dir)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise UnusableModel(f"{folder.path} can't be loaded: {error}") from error
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def check(config: Any) -> None:
    """Raises UnusableModel for an architecture whose KV can't be kept safely."""
    if config.model_type not in _SUPPORTED:
        raise UnusableModel(
            f"the architecture {config.model_type!r} is not supported: use a checkpoint of {', '.join(_SUPPORTED)}"
        )
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind in _MOVING_ROPE:
        raise UnusableModel(f"RoPE scaling {kind!r} changes the keys of earlier tokens, so no KV can be kept")
    if getattr(config, "attn_logit_softcapping", None):
        raise UnusableModel("attention with a softcap is not supported")


def _folder(name: str, cache_dir: Path) -> ModelFolder:
    if name != FIXTURE:
        return find(name)
    return ModelFolder(FIXTURE_NAME, write_fixture(cache_dir / "fixture-model"))


def _model(folder: ModelFolder, device: str, dtype: str) -> Any:
    import torch
    from transformers import AttentionInterface, AutoModelForCausalLM

    AttentionInterface.register(ATTENTION, attention)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder.path,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=getattr(torch, dtype),
    )
    model.set_attn_implementation(ATTENTION)
    model.eval().requires_grad_(False).to(device)
    if device == "cpu" and dtype == "float32":
        pack_linears(model)
    return model


def _shape(config: Any, dtype: str) -> KVShape:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return KVShape(config.num_hidden_layers, config.num_key_value_heads, size, dtype)


def _facts(config: Any, folder: ModelFolder, versions: dict[str, str]) -> dict[str, Any]:
    described = config.to_diff_dict() | {"sliding_window": getattr(config, "sliding_window", None)}
    for unrelated in ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype"):
        described.pop(unrelated, None)
    return {
        "weights": weights_fingerprint(folder.path),
        "architecture": described,
        "libraries": {name: ".".join(version.split("+")[0].split(".")[:2]) for name, version in versions.items()},
        "tokenizer": folder.tokenizer_fingerprint(),
    }


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    return frozenset(int(stop) for stop in ids if stop is not None)


def logits(checkpoint: Checkpoint, hidden: "torch.Tensor") -> "torch.Tensor":
    """Of the last states only: [B, hidden] -> float32 [B, vocabulary]."""
    found: torch.Tensor = checkpoint.model.lm_head(hidden)
    return found.float()


def states(checkpoint: Checkpoint, chunks: list[list[int]], kvs: list[SequenceKV]) -> "torch.Tensor":
    """The last hidden states of the next tokens of each sequence: [sequences, tokens of a chunk, hidden]."""
    import torch

    ids = torch.tensor(chunks, device=checkpoint.device)
    starts = torch.tensor([[kv.length] for kv in kvs], device=checkpoint.device)
    found: Any = checkpoint.model.model(
        input_ids=ids,
        position_ids=starts + torch.arange(ids.shape[1], device=checkpoint.device),
        use_cache=False,
        kv=kvs,
    )
    hidden: torch.Tensor = found.last_hidden_state
    return hidden
