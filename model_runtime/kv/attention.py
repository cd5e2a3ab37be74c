"""What does a query see of one stretch of keys, and how do stretches add up to the whole?

`partial` answers over some keys and says, by its log-sum-exp, how much weight they had; `merge` adds partial answers
up. So keys may lie in blocks anywhere: no tensor of all keys, and no [queries, keys] mask of a long context, is made.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Partial(NamedTuple):
    """`out` [..., heads, queries, head_dim] is normalised over the keys seen; `lse` [..., heads, queries], float32."""

    out: "torch.Tensor"
    lse: "torch.Tensor"


def partial(q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", scale: float) -> Partial:
    """Every query sees every key. q [n, kv_heads, queries, head_dim]; k, v [n, kv_heads, keys, head_dim].

    Queries of one group share their keys: fold the group into the queries (`fold`).
    """
    import torch

    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, scale=scale)
        return Partial(out, lse.float())
    if not q.is_cuda:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=None, scale=scale
        )
        return Partial(out, lse.float())
    return masked(q, k, v, scale, None)


def masked(
    q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", scale: float, seen: "torch.Tensor | None"
) -> Partial:
    """The reference: every score is made. `seen` bool [queries, keys], None: all. Who sees nothing gets lse -inf."""
    import torch

    scores = torch.matmul(q.float(), k.float().transpose(-1, -2)) * scale
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    lse = torch.logsumexp(scores, -1)
    weights = torch.exp(scores - torch.where(lse.isinf(), torch.zeros_like(lse), lse).unsqueeze(-1))
    return Partial(torch.matmul(weights, v.float()).to(q.dtype), lse)


def causal(q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", scale: float, window: int | None = None) -> Partial:
    """The newest query sees the newest key. q [1, kv_heads, group, queries, head_dim]; k, v [1, kv_heads, keys, …].

    Earlier queries see as much less (aligned to the lower right). `window`: keys that a query sees at most, itself
    among them. At most a block of keys: all scores are made.
    """
    import torch

    _, heads, group, queries, _ = q.shape
    keys = k.shape[-2]
    if queries == 1 and (window is None or keys <= window):
        return unfold(partial(fold(q), k, v, scale), group)
    if queries == keys and (window is None or keys <= window) and not q.is_cuda:
        flat = q.reshape(1, heads * group, queries, -1)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            flat,
            k.repeat_interleave(group, 1),
            v.repeat_interleave(group, 1),
            0.0,
            True,
            attn_mask=None,
            scale=scale,
        )
        return Partial(out.view(q.shape), lse.float().view(1, heads, group, queries))
    newest = torch.arange(keys - queries, keys, device=q.device).unsqueeze(1)
    place = torch.arange(keys, device=q.device)
    seen = place <= newest
    if window is not None:
        seen &= place > newest - window
    found = masked(fold(q), k, v, scale, seen.repeat(group, 1))
    return unfold(found, group)


def fold(q: "torch.Tensor") -> "torch.Tensor":
    """[n, kv_heads, group, queries, head_dim] -> [n, kv_heads, group * queries, head_dim]"""
    n, heads, group, queries, size = q.shape
    return q.reshape(n, heads, group * queries, size)


def unfold(found: Partial, group: int) -> Partial:
    n, heads, rows, size = found.out.shape
    return Partial(
        found.out.reshape(n, heads, group, rows // group, size), found.lse.reshape(n, heads, group, rows // group)
    )


def merge(parts: "list[Partial]") -> Partial:
    """The whole of disjoint parts, in their order: the same parts in the same order give the same bits."""
    import torch

    if len(parts) == 1:
        return parts[0]
    lse = torch.stack([part.lse for part in parts])
    total = torch.logsumexp(lse, 0)
    # A query that no part sees keeps lse -inf and an answer of zeros.
    shares = torch.exp(lse - torch.where(total.isinf(), torch.zeros_like(total), total))
    out = sum(
        (share.unsqueeze(-1) * part.out.float() for share, part in zip(shares, parts, strict=True)),
        torch.zeros_like(parts[0].out, dtype=torch.float32),
    )
    return Partial(out.to(parts[0].out.dtype), total)


def over_batch(found: Partial) -> Partial:
    """The n partial answers of a batch of blocks (first dimension) as one with n = 1."""
    import torch

    total = torch.logsumexp(found.lse, 0, keepdim=True)
    shares = torch.exp(found.lse - torch.where(total.isinf(), torch.zeros_like(total), total))
    return Partial((found.out.float() * shares.unsqueeze(-1)).sum(0, keepdim=True).to(found.out.dtype), total)
