import pytest
import torch

from model_runtime.embedders import packed


@pytest.mark.parametrize("rows", [1, 7, 256, 1_000])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_product_is_the_plain_one(rows: int, bias: bool) -> None:
    plain = torch.nn.Sequential(torch.nn.Linear(64, 96, bias=bias), torch.nn.GELU()).eval()
    x = torch.linspace(-1, 1, rows * 64).reshape(1, rows, 64)
    with torch.inference_mode():
        expected = plain(x)
        packed.pack_linears(plain)
        torch.testing.assert_close(plain(x), expected, atol=1e-5, rtol=1e-5)


def test_a_build_that_disagrees_keeps_the_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_onednn_agrees", lambda: False)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))

    assert packed.pack_linears(model) is False
    assert type(model[0]) is torch.nn.Linear
