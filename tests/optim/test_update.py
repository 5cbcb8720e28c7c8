"""The pure update: slices, codes between steps, and what written moments do to a small problem."""

import math
import os
import statistics
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pennyweight.numerics import Counter, cast, halves
from pennyweight.optim import AdamW, Hyper, Moment, Plan, moment, update, update_

ZERO_FREE = ["log8", "log4", "linear_nz8", "linear_nz4", "sqrt_nz8", "sqrt_nz4", "expand_e4m3"]
SIGNED = ["int8", "int4", "dynamic8", "dynamic_sym4", "dynamic_sym8", "expand_e4m3", "bf16"]
CPU = torch.device("cpu")


def nothing(m: Moment, v: Moment, number: int) -> dict[str, Tensor]:
    parts = (one.nothing(slot, (number,), device=CPU, dtype=torch.float32) for slot, one in (("m", m), ("v", v)))
    first, second = parts
    return {**first, **second}


def keys(step: int) -> dict[str, int]:
    counter = Counter(seed=1, step=step)
    return {slot: counter.key("w", slot) for slot in ("m", "v", "weights")}


def written(one: Moment, slot: str, values: Tensor, key: int = 1) -> Tensor:
    """What a reader of the codes sees of values [n]."""
    state = one.stored(slot, values, key=key)
    return one.read(slot, state, tuple(values.shape), 0, values.numel()).float()


def test_update_changes_nothing_it_was_given_and_equals_the_one_in_place() -> None:
    m, v = moment("int8", "m"), moment("log8", "v")
    weights, gradient, state = torch.randn(1000), torch.randn(1000), nothing(m, v, 1000)
    before = {name: tensor.clone() for name, tensor in state.items()}
    kept = weights.clone()
    new, fresh = update(weights, gradient, state, 1, Plan(m=m, v=v, keys=keys(0)))
    assert torch.equal(weights, kept)
    assert all(torch.equal(state[name], before[name]) for name in state)
    update_(weights, gradient, state, 1, Plan(m=m, v=v, keys=keys(0)))
    assert torch.equal(weights, new)
    assert all(torch.equal(state[name], fresh[name]) for name in state)


@pytest.mark.parametrize(
    ("m", "v", "edges"),
    [
        ("int8", "log8", [0, 256, 131_072, 200_192, 300_001]),
        ("dynamic_sym4", "log4", [0, 128, 200_192, 300_001]),
        ("int8/block96", "log8/block160", [0, 480, 144_000, 300_001]),
        ("bf16", "bf16", [0, 64, 131_136, 300_001]),
        ("fp32", "fp32", [0, 64, 131_136, 300_001]),
    ],
)
def test_shards_at_block_edges_are_bit_equal_to_the_whole(m: str, v: str, edges: list[int]) -> None:
    first, second, number = moment(m, "m"), moment(v, "v"), edges[-1]
    whole_w = torch.randn(number)
    shards_w = [whole_w[a:b].clone() for a, b in zip(edges, edges[1:], strict=False)]
    whole = nothing(first, second, number)
    shards = [nothing(first, second, b - a) for a, b in zip(edges, edges[1:], strict=False)]
    for step in range(1, 4):
        gradient = torch.randn(number)
        update_(whole_w, gradient, whole, step, Plan(m=first, v=second, keys=keys(step)))
        for w, state, a in zip(shards_w, shards, edges, strict=False):
            part = gradient[a : a + w.numel()]
            update_(w, part, state, step, Plan(m=first, v=second, keys=keys(step)), start=a)
    assert torch.equal(torch.cat(shards_w), whole_w)
    for name, tensor in whole.items():
        assert torch.equal(torch.cat([state[name] for state in shards]), tensor)


def test_shards_of_whole_rows_round_weights_without_a_master_alike() -> None:
    whole, gradient, rounding = torch.randn(600, 512), torch.randn(600, 512), cast("int8/row/stochastic")
    parts = [whole[:256].clone(), whole[256:].clone()]
    state = nothing(Moment(), Moment(), whole.numel())
    master, _ = update(whole.view(-1), gradient.view(-1), state, 1, Plan())
    update_(whole.view(-1), gradient.view(-1), state, 1, Plan(cast=rounding, keys=keys(0)), shape=(600, 512))
    assert torch.equal(whole, rounding(master.view(600, 512), keys(0)["weights"]))
    for part, g, start in zip(parts, (gradient[:256], gradient[256:]), (0, 256 * 512), strict=True):
        empty, shape = nothing(Moment(), Moment(), part.numel()), tuple(part.shape)
        flat = part.view(-1), g.reshape(-1)
        update_(*flat, empty, 1, Plan(cast=rounding, keys=keys(0)), start=start, shape=shape)
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("m", "v"), [("int8", "log8"), ("dynamic_sym4", "log4"), ("int8/row", "int8/tensor-with-zero")]
)
def test_written_moments_move_weights_like_moments_rounded_by_hand(readable: None, m: str, v: str) -> None:
    """The trajectory of codes equals that of float32 moments which the cast rounds in place after each step."""
    first, second = moment(m, "m"), moment(v, "v")
    shape, b1, b2 = (48, 96), 0.9, 0.95
    weights = torch.randn(shape).view(-1)
    emulated, old_m, old_v = weights.clone(), torch.zeros(shape), torch.zeros(shape)
    state = {}
    for slot, one in (("m", first), ("v", second)):
        state |= one.nothing(slot, shape, device=CPU, dtype=torch.float32)
    assert first.cast is not None
    assert second.cast is not None
    for step in range(1, 6):
        gradient = torch.randn(shape)
        update_(
            weights,
            gradient.view(-1),
            state,
            step,
            Plan(Hyper(1e-2, b1, b2), m=first, v=second, keys=keys(step)),
            shape=shape,
        )
        old_m = old_m.lerp(gradient, 1 - b1)
        old_v = (old_v * b2).addcmul(gradient, gradient, value=1 - b2)
        root = (old_v.sqrt() / (1 - b2**step) ** 0.5).add(1e-8)
        emulated = (emulated * (1 - 1e-2 * 1e-2)).addcdiv(old_m.view(-1), root.view(-1), value=-1e-2 / (1 - b1**step))
        rounded = []
        for one, old, slot in ((first.cast, old_m, "m"), (second.cast, old_v, "v")):
            flat = old.view(-1) if one.scale.granularity == "block" else old
            rounded.append(one.write(flat, keys(step)[slot], draw=halves).read().view(shape))
        old_m, old_v = rounded
    assert torch.equal(weights, emulated)


@pytest.mark.parametrize("power", [-7, 5])
def test_scaling_gradients_by_a_power_of_two_leaves_every_code(power: int) -> None:
    m, v = moment("int8", "m"), moment("log8", "v")
    plain, scaled = nothing(m, v, 2048), nothing(m, v, 2048)
    weights = torch.zeros(2048)
    for step in range(1, 4):
        gradient = torch.randn(2048)
        for state, factor in ((plain, 1.0), (scaled, 2.0**power)):
            update_(weights.clone(), gradient * factor, state, step, Plan(m=m, v=v, keys=keys(step)))
    assert torch.equal(plain["m.codes"], scaled["m.codes"])
    assert torch.equal(plain["v.codes"], scaled["v.codes"])
    assert torch.equal(plain["m.scales"] * 2.0**power, scaled["m.scales"])
    assert torch.equal(plain["v.scales"] * 4.0**power, scaled["v.scales"])


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("code", ZERO_FREE)
def test_no_second_moment_becomes_zero(code: str, rounding: str) -> None:
    one = moment(code, "v", rounding)
    decades = torch.rand(2**18, generator=torch.Generator().manual_seed(0)) * 30 - 28
    assert (written(one, "v", 10.0**decades) > 0).all()


@pytest.mark.parametrize(("code", "octaves", "block"), [("log8", 40.0, 256), ("log4", 20.0, 128)])
def test_nearest_log_moments_are_within_half_a_step(code: str, octaves: float, block: int) -> None:
    spread = torch.linspace(0.1, 0.95 * octaves, 64).view(-1, 1)
    v = 2.0 ** (-torch.rand(64, block, generator=torch.Generator().manual_seed(0)) * spread)
    back = written(moment(code, "v", "nearest"), "v", v.view(-1)).view(64, block)
    high, low = v.amax(1, keepdim=True), v.amin(1, keepdim=True)
    step = (high / low).log2() / (255 if code == "log8" else 15)
    error = (back.double() / v.double()).log2().abs()
    assert (error <= step / 2 + 1e-5).all()  # 1e-5: float32 log2 and exp2 near 40 octaves
    where = v.argmax(1, keepdim=True)
    assert ((back.gather(1, where) / high - 1).abs() <= 2.0**-23).all()


def test_a_zero_inside_a_block_becomes_its_smallest_code_and_a_zero_block_stays_zero() -> None:
    v = torch.rand(512) + 0.5
    v[7] = 0.0
    v[256:] = 0.0
    back = written(moment("log8", "v", "nearest"), "v", v)
    assert back[7] == pytest.approx(v[:256][v[:256] > 0].min().item(), rel=1e-5)  # float32 exp2
    assert (back[256:] == 0).all()


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("code", [*ZERO_FREE[:-1], "int8/tensor-with-zero", "udynamic8-with-zero"])
def test_written_values_of_v_are_fixed_points(code: str, rounding: str) -> None:
    """Not of expand_e4m3, whose power follows the smallest value, which the code does not hold exactly."""
    one = moment(code, "v", rounding)
    v = torch.randn(4, 2048, generator=torch.Generator().manual_seed(0)).square()
    once = written(one, "v", v.view(-1) if one.block else v)
    twice = written(one, "v", once.view(v.shape) if not one.block else once, key=2)
    close = (once - twice).abs() <= 4e-6 * once + 1e-12  # one ulp of the scale and of log2 at 40 octaves
    assert close.float().mean() > 0.9999  # a value one ulp below its code may, once in 1e5 draws, round down


@pytest.mark.parametrize(("slot", "code"), [*(("m", c) for c in SIGNED), *(("v", c) for c in ZERO_FREE)])
def test_stochastic_moments_are_unbiased(slot: str, code: str) -> None:
    draws, block = 4000, 256
    generator = torch.Generator().manual_seed(3)
    values = 0.9 * torch.rand(block, generator=generator) + 0.1  # inside the coded range of every code
    if slot == "m":
        values = torch.where(torch.rand(block, generator=generator) < 0.5, -values, values)
        values[::128] = 1.1  # the unsymmetric codes reach their scale on the positive side only
    back = written(moment(code, slot), slot, values.repeat(draws), key=11).view(draws, block).double()
    for part in range(0, block, 128):
        mean, exact = back[:, part : part + 128].mean(0), values[part : part + 128].double()
        grid = back[:, part : part + 128].unique()
        above = torch.searchsorted(grid, exact).clamp(1, len(grid) - 1)
        gap = grid[above] - grid[above - 1]
        p = ((exact - grid[above - 1]) / gap).clamp(0, 1)
        # 4.5 standard errors; 7e-4 of a gap: two draws of 4000, and probabilities below 1e-4 are snapped to 0
        tolerance = 4.5 * gap * (p * (1 - p) / draws).sqrt() + 7e-4 * gap + 2e-6 * exact.abs()
        assert ((mean - exact).abs() <= tolerance).all()


def test_the_papers_states_have_the_papers_floor_under_their_scales() -> None:
    tiny = torch.full((4, 8), 1e-10)  # 1.27 steps of 1e-8 / 127
    assert torch.equal(written(moment("int8/row", "m", "nearest"), "m", tiny), torch.full((32,), 1e-8) / 127)
    assert torch.equal(written(moment("int8/block8", "m", "nearest"), "m", tiny), tiny.view(-1))


def held(codes: list[int], rounding: str, steps: int) -> Tensor:
    """Codes of m after `steps` of zero gradient in a block whose first element keeps the scale by its gradient."""
    m, v = moment("int8/block128", "m", rounding), Moment()
    state = nothing(m, v, 128)
    state["m.codes"][0], state["m.scales"][0] = 127, 1.0
    state["m.codes"][1 : 1 + len(codes)] = torch.tensor(codes).to(state["m.codes"].dtype)
    gradient = torch.zeros(128)
    gradient[0] = 127.0
    weights = torch.zeros(128)
    for step in range(2, 2 + steps):
        update_(weights, gradient, state, step, Plan(Hyper(lr=0.0, beta1=0.9), m=m, v=v, keys=keys(step)))
    return state["m.codes"].view(torch.int8)[1 : 1 + len(codes)]


def test_nearest_codes_below_half_over_one_minus_b_never_decay() -> None:
    assert held([1, 2, 3, 4, -4, 6, 40], "nearest", 200).tolist() == [1, 2, 3, 4, -4, 4, 4]


def test_stochastic_codes_all_decay_to_zero() -> None:
    assert held([1, 2, 3, 4, -4, 6, 40], "stochastic", 200).tolist() == [0] * 7


def stale(rounding: str, steps: int = 600) -> float:
    """Geometric mean of stored v over exact v, of elements whose gradients shrank tenfold."""
    number, b2 = 64 * 256, 0.99
    generator = torch.Generator().manual_seed(0)
    scale = (2.2 * torch.randn(number, generator=generator)).exp()  # about 20 octaves of v in a block
    v, state = moment("log8", "v", rounding), None
    exact = torch.zeros(number)
    state = nothing(Moment(), v, number)
    changed = torch.arange(number) % 2 == 0
    weights = torch.zeros(number)
    for step in range(1, 2 * steps + 1):
        if step == steps + 1:
            scale = torch.where(changed, scale / 10, scale)
        gradient = scale * torch.randn(number, generator=generator)
        exact = exact * b2 + (1 - b2) * gradient**2
        update_(weights, gradient, state, step, Plan(Hyper(lr=0.0, beta2=b2), v=v, keys=keys(step)))
    stored = v.read("v", state, (number,), 0, number)
    return (stored[changed] / exact[changed]).log().mean().exp().item()


@pytest.mark.long
def test_nearest_second_moments_go_stale_and_stochastic_ones_follow() -> None:
    assert stale("nearest") > 2
    assert 0.9 < stale("stochastic") < 1.1


def toy(m: str, v: str, seed: int, rounding: str = "stochastic") -> float:
    """Final loss of a 32-64-32 regression MLP with badly scaled inputs after 300 steps."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    inputs = torch.randn(256, 32, generator=generator) * torch.logspace(-2, 1, 32)
    targets = torch.tanh(inputs @ torch.randn(32, 32, generator=generator) * 0.3)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
    optimizer = AdamW(model.parameters(), m=m, v=v, rounding=rounding, seed=seed, min_numel=1, nonfinite="skip")
    loss = math.inf
    for step in range(300):
        batch = torch.arange(32) + 32 * (step % 8)
        optimizer.zero_grad()
        loss_now = nn.functional.mse_loss(model(inputs[batch]), targets[batch])
        loss_now.backward()
        optimizer.step()
    with torch.no_grad():
        loss = nn.functional.mse_loss(model(inputs), targets).item()
    return loss if math.isfinite(loss) else 1e30


def test_a_second_moment_with_a_zero_diverges_and_log_codes_do_not() -> None:
    reference = toy("fp32", "fp32", 0)
    assert toy("fp32", "int8/tensor-with-zero", 0) > 1e3
    for m, v in (("int8", "log8"), ("dynamic_sym4", "log4")):
        assert toy(m, v, 0) == pytest.approx(reference, rel=0.05)


@pytest.mark.long
def test_only_the_zero_diverges_whatever_block_and_rounding() -> None:
    reference = statistics.median(toy("fp32", "fp32", seed) for seed in range(3))
    for v in ("int8/tensor-with-zero", "int8/block128-with-zero", "uint8-with-zero"):
        for rounding in ("nearest", "stochastic"):
            assert toy("fp32", v, 0, rounding) > 1e3
    pairs = [("fp32", "log8"), ("fp32", "log4"), ("int8", "fp32"), ("dynamic_sym4", "fp32"), ("int8", "log8")]
    for m, v in pairs:
        assert statistics.median(toy(m, v, seed) for seed in range(3)) == pytest.approx(reference, rel=0.05)


@pytest.mark.parametrize("lr", [1e-5, 1e-4, 1e-3])
def test_weights_without_a_master_make_the_progress_of_their_updates(lr: float) -> None:
    steps, shape = 100, (64, 768)
    weight = nn.Parameter(0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    gradient = torch.zeros(shape)
    gradient[:, ::2] = 1.0
    with torch.no_grad():
        weight[:, 1] = 0.15  # an element without update holds the row's scale
    optimizer = AdamW([weight], lr=lr, weight_decay=0.0, weights="int8/row/pow2")
    weight.grad = torch.zeros(shape)
    optimizer.step()
    start = weight.detach().clone()
    for _ in range(steps):
        weight.grad = gradient
        optimizer.step()
    moved = (start - weight.detach())[:, ::2].double().mean().item()
    # An average from 0 gives no step before the gradient comes, and then m/sqrt(v) by Adam's own formula.
    exact = sum(
        lr * ((1 - 0.9**n) / (1 - 0.9 ** (n + 1))) / math.sqrt((1 - 0.999**n) / (1 - 0.999 ** (n + 1)))
        for n in range(1, steps + 1)
    )
    assert moved == pytest.approx(exact, rel=0.02)
    assert torch.equal(start[:, 1::2], weight.detach()[:, 1::2])


def test_a_step_needs_little_memory_beyond_the_states() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux to reset the peak of the resident set")
    weight = nn.Parameter(torch.randn(4096, 2048))
    optimizer = AdamW([weight], m="int8", v="log8")
    weight.grad = torch.randn(4096, 2048)
    optimizer.step()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except PermissionError:
        pytest.skip("may not reset the peak of the resident set")
    before = resident("VmRSS")
    optimizer.step()
    assert resident("VmHWM") - before < 12 * 2**20  # one float32 copy would be 32 MiB


def resident(line: str) -> int:
    text = Path(f"/proc/{os.getpid()}/status").read_text()
    return 1024 * int(next(row for row in text.splitlines() if row.startswith(line)).split()[1])
