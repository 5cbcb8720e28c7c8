"""The compiled AdamW step on a weight that is its codes: the compiled step and the readable rewriting, in one pass."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, library, nn

from pennyweight.kernels import compiled, rewrites_at_once
from pennyweight.numerics import Stored, cast
from pennyweight.optim import AdamW
from pennyweight.optim.notation import moment
from pennyweight.optim.update import Hyper, Plan, update_, update_stored_

pytestmark = pytest.mark.skipif(
    compiled.missing() is not None or not torch.ops.pennyweight.has_adamw(), reason="no compiled AdamW on this machine"
)

KEYS = {"m": (1 << 63) + 12345, "v": 987654321987, "weights": (1 << 63) + 777}
POWER = "int8/row/pow2"
STEPS = 4


def plan(rounding: str = "stochastic", text: str = POWER, blocks: tuple[int, int] = (128, 256)) -> Plan:
    m, v = moment(f"int8/block{blocks[0]}", "m", rounding), moment(f"log8/block{blocks[1]}", "v", rounding)
    by = cast(text if rounding == "nearest" else f"{text}/stochastic")
    return Plan(Hyper(lr=1e-2, weight_decay=0.1), m=m, v=v, cast=by, keys=KEYS)


def weight(outputs: int, inputs: int, *, turned: bool = False, text: str = POWER) -> Stored:
    """With a row of zeros in the middle."""
    torch.manual_seed(1)
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight[outputs // 2] = 0
    if turned:
        layer.weight = nn.Parameter(layer.weight.detach().T.contiguous())
    return Stored.of(layer, cast(text), turned=turned)


def gradient_of(stored: Stored, step: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Spread over four decades; none where the weight is zero."""
    generator = torch.Generator().manual_seed(step)
    shape = stored.codes.shape
    gradient = torch.randn(shape, generator=generator) * torch.randn(shape, generator=generator).exp() * 1e-3
    (gradient.T if stored.turned else gradient)[stored.scales.numel() // 2] = 0
    return gradient.to(dtype)


def at_once(stored: Stored, how: Plan, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], list]:
    """The state and the counts after some steps in one pass each."""
    state, counts = how.nothing(stored.layer.weight), []
    for step in range(1, STEPS + 1):
        gradient = gradient_of(stored, step, dtype)
        assert rewrites_at_once(how.cast, how.m.cast, how.v.cast, stored, gradient)
        update_stored_(stored, gradient, state, step, how)
        counts.append((stored.moved, stored.swallowed))
    return state, counts


def rewritten(stored: Stored, gradient: Tensor, state: dict[str, Tensor], step: int, how: Plan) -> None:
    """One step by way of the whole weight in float32."""
    work = stored.values()
    update_(work.view(-1), gradient.view(-1), state, step, replace(how, cast=None), shape=tuple(work.shape))
    stored.rewrite(work, how.cast, KEYS["weights"])


def one_by_one(stored: Stored, how: Plan, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], list]:
    """The same by way of the whole weight in float32."""
    state, counts = how.nothing(stored.layer.weight), []
    for step in range(1, STEPS + 1):
        rewritten(stored, gradient_of(stored, step, dtype), state, step, how)
        counts.append((stored.moved, stored.swallowed))
    return state, counts


def check_same(a: Stored, b: Stored) -> None:
    assert torch.equal(a.codes, b.codes)
    assert torch.equal(a.scales, b.scales)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize(
    ("shape", "text", "blocks", "dtype"),
    [
        ((96, 256), POWER, (128, 256), torch.float32),
        ((64, 768), POWER, (128, 256), torch.bfloat16),
        ((33, 67), POWER, (128, 256), torch.float32),  # rows begin blocks only 256 rows apart
        ((300, 515), POWER, (256, 128), torch.bfloat16),  # they never do in a cache: every chunk is moved twice
        ((5, 7), POWER, (32, 2048), torch.float32),
        ((1, 1), POWER, (128, 256), torch.float32),
        ((64, 300), "int8/row", (64, 64), torch.float32),
    ],
)
def test_one_pass_writes_what_the_step_and_the_rewriting_write_bit_for_bit(
    shape: tuple[int, int], text: str, blocks: tuple[int, int], dtype: torch.dtype, rounding: str, turned: bool
) -> None:
    how = plan(rounding, text, blocks)
    fast, slow = (weight(*shape, turned=turned, text=text) for _ in range(2))
    (fast_state, fast_counts), (slow_state, slow_counts) = at_once(fast, how, dtype), one_by_one(slow, how, dtype)
    check_same(fast, slow)
    assert fast_counts == slow_counts
    assert all(torch.equal(fast_state[name], slow_state[name]) for name in slow_state if name != "step")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_it_meets_the_readable_step_but_for_numbers_between_two_codes(
    rounding: str, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, fast = plan(rounding), weight(300, 512, turned=turned)
    state, _ = at_once(fast, how)
    slow, slow_state = deepcopy(fast), deepcopy(state)
    gradient = gradient_of(fast, STEPS + 1)
    update_stored_(fast, gradient, state, STEPS + 1, how)
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "missing", lambda: "hidden by a test")
        assert not rewrites_at_once(how.cast, how.m.cast, how.v.cast, slow, gradient)
        update_stored_(slow, gradient, slow_state, STEPS + 1, how)
    apart = (fast.codes.int() - slow.codes.int()).abs()
    assert torch.equal(fast.scales, slow.scales)
    assert int(apart.max()) <= 1
    assert float((apart > 0).float().mean()) < 1e-4  # fused products and roots to 2^-23: now and then over an edge
    assert abs(fast.moved - slow.moved) < 15  # of 150,000, for the same reason
    assert abs(fast.swallowed - slow.swallowed) < 15


@pytest.mark.parametrize("turned", [False, True])
def test_gradients_whose_squares_are_no_numbers_move_as_they_do_there(turned: bool) -> None:
    how, (fast, slow) = plan(), (weight(40, 256, turned=turned) for _ in range(2))
    how = replace(how, hyper=Hyper(lr=10.0))
    gradient = gradient_of(fast, 1)
    gradient.view(-1)[7::1000] = 1e21
    for stored, step in ((fast, update_stored_), (slow, rewritten)):
        step(stored, gradient, how.nothing(stored.layer.weight), 1, how)
    check_same(fast, slow)
    assert fast.scales.max() > 1e-3  # as they were; a weight that moved by 5 or so has a scale above


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("columns", [512, 515])
def test_the_number_of_threads_changes_no_bit(turned: bool, columns: int) -> None:
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        stored = weight(200, columns, turned=turned)
        results.append((stored, *at_once(stored, plan())))
    torch.set_num_threads(1)
    (one, one_state, one_counts), (three, three_state, three_counts) = results
    check_same(one, three)
    assert one_counts == three_counts
    assert all(torch.equal(one_state[name], three_state[name]) for name in one_state)


def test_an_output_of_zeros_keeps_the_scale_zero_and_one_that_dies_gets_it() -> None:
    stored, how = weight(6, 256), plan("nearest")
    state = how.nothing(stored.layer.weight)
    update_stored_(stored, torch.zeros(6, 256), state, 1, replace(how, hyper=Hyper(lr=1.0, weight_decay=1.0)))
    assert not stored.codes.any()
    assert not stored.scales.any()
    assert (stored.moved, stored.swallowed) == (5 * 256 - stored_zeros(6, 256), 0)


def stored_zeros(outputs: int, inputs: int) -> int:
    """How many numbers of the five outputs that live are written as zero."""
    return int((weight(outputs, inputs).codes == 0).sum()) - inputs


def pair(kind: Callable[[Stored], Stored] = lambda stored: stored) -> list[tuple[Stored, AdamW]]:
    made = []
    for _ in range(2):
        stored = kind(weight(40, 256))
        settings = {"m": "int8/block128", "v": "log8/block256", "min_numel": 0}
        made.append((stored, AdamW([("w", stored.layer.weight)], lr=1e-2, **settings)))
    return made


def test_a_gradient_may_lie_anyhow() -> None:
    (plain, a), (other, b) = pair()
    plain.layer.weight.grad = gradient_of(plain, 1)
    other.layer.weight.grad = gradient_of(other, 1).T.contiguous().T
    a.step()
    b.step()
    check_same(plain, other)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    (stored, optimizer), (before, _) = pair()
    stored.layer.weight.grad = gradient_of(stored, 1)
    stored.layer.weight.grad[3, 5] = math.nan
    with pytest.raises(FloatingPointError, match="no weight and no moment was changed"):
        optimizer.step()
    check_same(stored, before)


def test_a_resumed_optimizer_goes_on_bit_for_bit() -> None:
    (straight, a), (resumed, b) = pair()
    for step in (1, 2, 3, 4):
        straight.layer.weight.grad = gradient_of(straight, step)
        a.step()
        if step == 2:
            b.load_state_dict(deepcopy(a.state_dict()))
            resumed.layer.load_state_dict(straight.layer.state_dict(), strict=False)
    for step in (3, 4):
        resumed.layer.weight.grad = gradient_of(resumed, step)
        b.step()
    check_same(straight, resumed)


def test_scales_that_a_model_in_bfloat16_holds_are_kept_there() -> None:
    (single, a), (half, b) = pair()
    half.layer.weight_scales = half.layer.weight_scales.to(torch.bfloat16)
    for step in (1, 2):
        for stored, optimizer in ((single, a), (half, b)):
            stored.layer.weight.grad = gradient_of(stored, step) * 100
            optimizer.step()
    check_same(single, half)
    assert half.layer.weight_scales.dtype == torch.bfloat16


def test_what_the_pass_does_not_know_goes_the_readable_way() -> None:
    how, stored = plan(), weight(8, 256)
    m, v, gradient = how.m.cast, how.v.cast, torch.zeros(8, 256)
    assert rewrites_at_once(how.cast, m, v, stored, gradient)
    assert not rewrites_at_once(cast("int4/row/pow2"), m, v, stored, gradient)
    assert not rewrites_at_once(cast("int8/row/e8m0"), m, v, stored, gradient)
    assert not rewrites_at_once(how.cast, None, None, stored, gradient)
    assert not rewrites_at_once(how.cast, m, v, stored, gradient.double())
    empty = Stored.of(nn.Linear(256, 8), cast(POWER), turned=False)
    empty.layer.weight_codes = torch.empty(0, 256, dtype=torch.int8)
    assert not rewrites_at_once(how.cast, m, v, empty, torch.empty(0, 256))


def test_codes_that_a_step_writes_before_backward_reads_them_are_noticed() -> None:
    (stored, optimizer), _ = pair()
    factor = torch.ones(40, 256, requires_grad=True)
    product = (factor * stored.codes).sum()
    stored.layer.weight.grad = gradient_of(stored, 1)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_the_operator_is_what_pytorch_asks_of_it(rounding: str) -> None:
    how, stored = plan(rounding), weight(6, 50)
    state = how.nothing(stored.layer.weight)
    keys = (17, -5, 3) if rounding == "stochastic" else (None, None, None)
    scalars = [1.0, 0.1, 0.95, 0.05, 1.0, 1e-3, 1e-8, 40.0]
    library.opcheck(
        torch.ops.pennyweight.adamw_step_on_codes.default,
        (stored.codes, stored.scales, False, True, gradient_of(stored, 1), state["m.codes"], state["m.scales"], 128,
         state["v.codes"], state["v.scales"], state["v.extra"], 256, scalars, *keys),
    )  # fmt: skip
