"""What writing does to a tensor and to a layer's products, against numbers made by hand and in float64."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from pennyweight.analysis.sampling import sample, strided
from pennyweight.analysis.tensors import gradient_fidelity, outliers, products, writing
from pennyweight.nn import quantize
from pennyweight.numerics import cast


def gauss(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_places_are_evenly_spread_and_all_where_there_are_few() -> None:
    assert strided(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert strided(3, 7).tolist() == [0, 1, 2]
    assert strided(5, 0).tolist() == [0]


def test_a_row_written_by_hand() -> None:
    # one row of int4: the scale is 7/7 = 1, codes 7, 0, -3, 2 (ties to even); the errors are 0, -0.25, 0, -0.5
    told = writing(torch.tensor([[7.0, 0.25, -3.0, 2.5]]), cast("int4/row"))
    assert told["db"] == pytest.approx(10 * math.log10((49 + 0.0625 + 9 + 6.25) / (0.0625 + 0.25)))
    assert told["bias"] == pytest.approx(-0.75 / 12.75)
    assert told["zero"] == 0.25
    assert told["codes"] == 4
    assert told["saturated"] == 0


@pytest.mark.parametrize("granularity", ["row", "block32", "column", "tensor", "square32"])
def test_a_sample_is_scaled_as_the_whole_is(granularity: str) -> None:
    """Each number that is looked at is written exactly as in the whole matrix."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(300, 256, generator=draw, dtype=torch.float64)  # no number stands twice in it
    x *= torch.logspace(-1, 1, 300, dtype=torch.float64)[torch.randperm(300, generator=draw), None]
    written = cast(f"int8/{granularity}")
    some, whole = sample(x, written, numbers=8192), written(x)
    assert some.numel() < x.numel() / 5
    image = dict(zip(x.flatten().tolist(), whole.flatten().tolist(), strict=True))
    assert [image[value] for value in some.flatten().tolist()] == written(some).flatten().tolist()


def test_a_large_enough_sample_is_the_matrix() -> None:
    x = gauss(30, 20)
    assert sample(x, cast("int8/row"), numbers=600) is x


def test_the_sample_tells_the_decibels_of_the_whole() -> None:
    x = gauss(4096, 256)
    whole, some = (writing(x, cast("int8/row"), numbers=n) for n in (x.numel(), 1 << 14))
    assert some["db"] == pytest.approx(whole["db"], abs=0.3)  # 64 of 4096 rows; 0.1 dB is one standard deviation


def test_an_outlier_channel_is_found_and_weighed() -> None:
    x = np.ones((50, 8))
    x[:, 5] = -10.0
    power = np.array([1.0] * 5 + [100.0] + [1.0] * 2)
    kurtosis, top = outliers(torch.from_numpy(x))
    assert kurtosis == pytest.approx((power**2).mean() / power.mean() ** 2)
    assert top[0] == (5, pytest.approx(10 / math.sqrt(power.mean())))
    assert outliers(torch.ones(4, 8))[0] == pytest.approx(1.0)
    assert outliers(torch.zeros(4, 8)) == (1.0, [])


def test_products_of_a_written_layer_against_float64() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 48))
    x, g = gauss(40, 64), gauss(40, 48, seed=1)
    weight = model[0].weight.detach().double().numpy().copy()
    quantize(model, "w4a4")
    told = products(model[0], x, g, nullcontext)
    image_x = cast("int4/row")(x).double().numpy()
    image_w = cast("int4/row")(torch.from_numpy(weight).float()).double().numpy()
    exact = x.double().numpy() @ weight.T
    noise = image_x @ image_w.T - exact
    assert told["output"]["db"] == pytest.approx(
        10 * np.log10((exact**2).sum() / (noise**2).sum()), abs=1e-3
    )  # float32
    exact = g.double().numpy().T @ x.double().numpy()  # w4a4's backward reads the written x and w, G as it comes
    noise = g.double().numpy().T @ image_x - exact
    assert told["grad_weight"]["db"] == pytest.approx(10 * np.log10((exact**2).sum() / (noise**2).sum()), abs=1e-3)
    assert model[0].weight.grad is None


def test_gradients_are_compared_by_angle_and_length() -> None:
    told = gradient_fidelity(
        {"a": torch.tensor([3.0, 4.0]), "z": torch.zeros(2)}, {"a": torch.tensor([0.0, 10.0]), "z": torch.ones(2)}
    )
    assert told == {"a": {"cosine": pytest.approx(0.8), "norm_ratio": pytest.approx(0.5)}}
