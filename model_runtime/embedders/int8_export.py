"""Which graph does ONNX Runtime run in int8? Made once from the weights, by a process of its own.

`python -m model_runtime.embedders.int8_export <folder> <pooling> <file>`: one text in, its pooled vector out. The
products of activations with weights are in int8, weights per output channel, activations with the range of the run;
attention between tokens, norms and the embedding table stay in float32.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

_OPSET = 18


def export(folder: Path, pooling: str, target: Path) -> None:
    """Writes `target`. About ten seconds and 600 MiB of memory for MiniLM. Raises OSError, ValueError."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        plain, fused = Path(temporary) / "plain.onnx", Path(temporary) / "fused.onnx"
        _trace(folder, pooling, plain)
        # Before quantising: bias with GELU and residual with norm become one step each, 6 to 15 % more tokens a second.
        optimize_model(str(plain), model_type="bert", opt_level=0).save_model_to_file(str(fused))
        quantize_dynamic(
            fused, target, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
        )


def _trace(folder: Path, pooling: str, file: Path) -> None:
    import torch
    from transformers import AutoModel

    model: Any = AutoModel.from_pretrained(
        str(folder),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        attn_implementation="eager",
    )

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.model(input_ids=input_ids).last_hidden_state
            return states[:, 0] if pooling == "cls" else states.mean(1)

    torch.onnx.export(
        Pooled().eval(),
        (torch.arange(8)[None],),
        str(file),
        input_names=["input_ids"],
        output_names=["vector"],
        dynamic_shapes={"input_ids": {1: "length"}},
        opset_version=_OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


if __name__ == "__main__":
    source, how, to = sys.argv[1:]
    export(Path(source), how, Path(to))
