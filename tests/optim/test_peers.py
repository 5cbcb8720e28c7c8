"""The same codes as the peers' 8- and 4-bit AdamW, where those are installed."""

import pytest
import torch
from torch import Tensor, nn

from pennyweight.optim import AdamW


def halves(packed: Tensor, *, high_first: bool) -> Tensor:
    low, high = packed & 15, packed >> 4
    return torch.stack([high, low] if high_first else [low, high], dim=-1).view(-1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("theirs", "m", "v"),
    [
        ("AdamW8bit", "dynamic8/block256", "udynamic8/block256-with-zero"),
        ("AdamW4bit", "dynamic4/block128", "linear_nz4/block128"),
    ],
)
def test_codes_and_scales_of_one_step_equal_torchao(theirs: str, m: str, v: str) -> None:
    peers = pytest.importorskip("torchao.optim", exc_type=ImportError)
    start, gradient = torch.randn(64, 256), torch.randn(64, 256) * torch.randn(64, 256).exp()
    a, b = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours = AdamW([a], m=m, v=v, rounding="nearest")
    peer = getattr(peers, theirs)([b], weight_decay=1e-2)
    for parameter in (a, b):
        parameter.grad = gradient.clone()
    ours.step()
    with torch.compiler.set_stance("force_eager"):
        peer.step()
    torch.testing.assert_close(a.data, b.data, rtol=1e-6, atol=1e-7)  # they order the products otherwise
    for slot, name in (("m", "exp_avg"), ("v", "exp_avg_sq")):
        state = peer.state[b][name]
        codes = ours.state[a][f"{slot}.codes"]
        expected = state.codes.view(-1)
        if theirs == "AdamW4bit":
            codes, expected = halves(codes, high_first=False), halves(expected, high_first=True)
        scales = ours.state[a][f"{slot}.scales"]
        torch.testing.assert_close(scales, state.scale, rtol=3e-7, atol=0)  # their v is one lerp: an ulp or two
        differing = (codes.int() - expected.int()).abs()
        assert (differing != 0).double().mean() < 1e-3  # an ulp beside a midpoint
        assert differing.max() <= 1
