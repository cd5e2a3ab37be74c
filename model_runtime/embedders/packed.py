"""How is a small matrix product made fast on a CPU?

`torch.nn.Linear` in float32 goes to MKL with the weights as they lie. The same product through oneDNN with weights
packed once (what the TorchInductor compiler emits when it freezes a model) is the same arithmetic, and was measured
at 58 instead of 23 GFLOPS for 12 rows and 86 instead of 65 for 512 rows (one AMD EPYC core, 384 x 1536, torch 2.13).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TYPICAL_ROWS = 256
_FLOAT_NOISE = 1e-4


def pack_linears(model: "torch.nn.Module") -> bool:
    """Replaces, in place, each `Linear` of a float32 CPU model that is only used for inference.

    False, and nothing is changed, where this build of torch has no oneDNN or computes something else with it.
    """
    import torch

    if not _onednn_agrees():
        return False
    owners = [
        (owner, name, linear)
        for owner in model.modules()
        for name, linear in owner.named_children()
        if type(linear) is torch.nn.Linear
    ]
    for owner, name, linear in owners:
        setattr(owner, name, _packed(linear))
    return True


def _packed(linear: "torch.nn.Linear") -> "torch.nn.Module":
    import torch

    multiply = torch.ops.mkldnn._linear_pointwise
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _TYPICAL_ROWS)
    bias = None if linear.bias is None else linear.bias.detach()

    class PackedLinear(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            product: torch.Tensor = multiply(x, weight, bias, "none", [], "")
            return product

    return PackedLinear()


def _onednn_agrees() -> bool:
    """The operators are torch's own but private: they are used only after they reproduced a plain product."""
    import torch

    linear = torch.nn.Linear(48, 96)
    rows = torch.linspace(-1, 1, 5 * 48).reshape(5, 48)
    with torch.inference_mode():
        try:
            difference = (_packed(linear)(rows) - linear(rows)).abs().max()
        except (AttributeError, RuntimeError, TypeError):  # not in this build, or with another signature
            return False
    return bool(difference < _FLOAT_NOISE)
