"""Embedding models for a test, as folders: small, deterministic, and of as many dimensions as it wants."""

import json
import shutil
from pathlib import Path

from model_runtime.embedders.folder import find


def small_embedder(folder: Path, dimensions: int) -> Path:
    """A transformer with random weights, drawn from a seed: texts with the same words lie close to each other."""
    import torch
    from transformers import BertConfig, BertModel

    packaged = find("minilm").path
    shutil.copytree(packaged, folder, ignore=shutil.ignore_patterns("*.safetensors", "README.md", ".git*"))
    torch.manual_seed(dimensions)
    config = BertConfig(
        hidden_size=dimensions, num_hidden_layers=2, num_attention_heads=4, intermediate_size=2 * dimensions
    )
    BertModel(config).save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"word_embedding_dimension": dimensions}))
    return folder
