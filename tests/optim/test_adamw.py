"""AdamW as a whole: its ancestor, its drop-in manners, its refusals."""

import copy
import logging

import pytest
import torch
from torch import nn

from pennyweight.numerics import Counter
from pennyweight.optim import AdamW, predicted_state_bytes, state_bytes

WRITTEN = [("int8", "log8"), ("dynamic_sym4", "log4"), ("dynamic8", "sqrt_nz8"), ("bf16", "bf16")]


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(64, 80), (7,), (), (1,), (0, 5), (3, 5, 2), (130, 67)]
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def give_gradients(params: list[nn.Parameter], step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in params:
        spread = torch.randn(parameter.shape, generator=generator).exp()
        parameter.grad = (scale * spread * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)


def walk(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        give_gradients(params, step)
        optimizer.step()


def same(a: list[nn.Parameter], b: list[nn.Parameter]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_fp32_moments_are_torch_adamw_bit_for_bit(dtype: torch.dtype, decay: float, tensor_lr: bool) -> None:
    ours, theirs = parameters(dtype=dtype), parameters(dtype=dtype)
    lr = torch.tensor(3e-3) if tensor_lr else 3e-3
    a = AdamW(ours, lr=lr, betas=(0.9, 0.99), weight_decay=decay)
    b = torch.optim.AdamW(theirs, lr=lr, betas=(0.9, 0.99), weight_decay=decay, foreach=False, fused=False)
    for step in range(100):
        walk(a, ours, range(step, step + 1))
        walk(b, theirs, range(step, step + 1))
        assert same(ours, theirs)


@pytest.mark.parametrize(("threads", "size"), [(1, 200_003), (2, 200_003)])
def test_chunks_do_not_change_a_bit(threads: int, size: int) -> None:
    torch.set_num_threads(threads)
    ours, theirs = ([nn.Parameter(torch.linspace(-1, 1, size).view(1, -1).clone())] for _ in range(2))
    a, b = AdamW(ours), torch.optim.AdamW(theirs, foreach=False, fused=False)
    for step in range(5):
        walk(a, ours, range(step, step + 1))
        walk(b, theirs, range(step, step + 1))
    assert same(ours, theirs)


@pytest.mark.parametrize(("m", "v"), WRITTEN)
def test_first_step_does_not_depend_on_the_code(m: str, v: str) -> None:
    ours, theirs = parameters(), parameters()
    walk(AdamW(ours, m=m, v=v), ours, range(1))
    walk(torch.optim.AdamW(theirs, foreach=False), theirs, range(1))
    assert same(ours, theirs)


def test_without_beta1_the_code_of_m_has_no_influence() -> None:
    ours, theirs = parameters(), parameters()
    walk(AdamW(ours, betas=(0.0, 0.99), m="dynamic_sym4"), ours, range(20))
    walk(AdamW(theirs, betas=(0.0, 0.99)), theirs, range(20))
    assert same(ours, theirs)


@pytest.mark.parametrize(("m", "v"), WRITTEN)
def test_tensors_of_many_dims_and_elements_are_written_and_no_other(m: str, v: str) -> None:
    params = parameters()
    optimizer = AdamW(params, m=m, v=v)
    walk(optimizer, params, range(2))
    small = {name for p in params if p.numel() < 4096 for name in optimizer.state[p]}
    assert small == {"step", "m", "v"}
    assert all(optimizer.state[p]["m"].dtype == torch.float32 for p in params if p.numel() < 4096)
    for p in (params[0], params[-1]):
        held = {name: t for name, t in optimizer.state[p].items() if name != "step"}
        assert sum(t.numel() * t.element_size() for t in held.values()) < 0.55 * 8 * p.numel()


@pytest.mark.parametrize(("m", "v"), [("fp32", "fp32"), *WRITTEN])
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_resume_at_any_step_is_bit_equal(m: str, v: str, stop: int, tmp_path) -> None:
    whole, part = parameters(), parameters()
    a = AdamW(whole, m=m, v=v, seed=5)
    walk(a, whole, range(9))
    b = AdamW(part, m=m, v=v, seed=5)
    walk(b, part, range(stop))
    torch.save(b.state_dict(), tmp_path / "state.pt")
    again = [nn.Parameter(p.detach().clone()) for p in part]
    c = AdamW(again, m=m, v=v, seed=99)
    c.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    walk(c, again, range(stop, 9))
    assert same(whole, again)
    for p, q in zip(whole, again, strict=True):
        assert a.state[p].keys() == c.state[q].keys()
        assert all(torch.equal(a.state[p][name], c.state[q][name]) for name in a.state[p])
    assert c.param_groups[0]["counters"] == a.param_groups[0]["counters"] == [{"seed": 5, "step": 9, "micro_batch": 0}]


def test_a_resume_that_forgets_the_counter_is_not_bit_equal() -> None:
    whole, part = parameters(), parameters()
    walk(AdamW(whole, m="int8", v="log8"), whole, range(9))
    b = AdamW(part, m="int8", v="log8")
    walk(b, part, range(4))
    c = AdamW(part, m="int8", v="log8")
    state = b.state_dict()
    for group in state["param_groups"]:
        del group["counters"]
    c.load_state_dict(state)
    walk(c, part, range(4, 9))
    assert not same(whole, part)


def test_loading_does_not_share_memory_with_the_checkpoint() -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8")
    walk(a, params, range(2))
    state = a.state_dict()
    before = copy.deepcopy(state)
    b = AdamW(parameters(), m="int8", v="log8")
    b.load_state_dict(state)
    walk(b, b.param_groups[0]["params"], range(2, 4))
    assert all(torch.equal(t, before["state"][i][n]) for i, s in state["state"].items() for n, t in s.items())


def test_codes_and_float32_states_survive_loading_for_bf16_parameters() -> None:
    params = parameters(dtype=torch.bfloat16)
    a = AdamW(params, m="int8", v="log8")
    walk(a, params, range(3))
    b = AdamW(parameters(dtype=torch.bfloat16), m="int8", v="log8")
    b.load_state_dict(a.state_dict())
    for p, q in zip(params, b.param_groups[0]["params"], strict=True):
        for name, tensor in a.state[p].items():
            assert b.state[q][name].dtype == tensor.dtype
            assert torch.equal(b.state[q][name], tensor)
    assert a.state[params[1]]["m"].dtype == torch.float32


def test_states_of_torch_adamw_are_taken_over() -> None:
    ours, theirs = parameters(), parameters()
    b = torch.optim.AdamW(theirs, foreach=False)
    walk(b, theirs, range(3))
    a = AdamW(ours)
    a.load_state_dict(b.state_dict())
    with torch.no_grad():
        for p, q in zip(ours, theirs, strict=True):
            p.copy_(q)
    walk(a, ours, range(3, 6))
    walk(b, theirs, range(3, 6))
    assert same(ours, theirs)


@pytest.mark.parametrize(
    ("old", "new"), [("int8", "fp32"), ("fp32", "int8"), ("int8/block64", "int8"), ("dynamic_sym4", "bf16")]
)
def test_loading_other_bits_converts_with_a_line_or_refuses(old: str, new: str, caplog) -> None:
    params = parameters()
    a = AdamW(params, m=old, v="log8")
    walk(a, params, range(3))
    b = AdamW(parameters(), m=new, v="log8")
    with pytest.raises(ValueError, match="strict"):
        b.load_state_dict(a.state_dict(), strict=True)
    with caplog.at_level(logging.WARNING):
        b.load_state_dict(a.state_dict())
    assert "converts" in caplog.text
    assert b.param_groups[0]["m"] == new
    walk(b, b.param_groups[0]["params"], range(3, 5))


def test_a_conversion_to_float32_keeps_the_decoded_values() -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8", rounding="nearest")
    walk(a, params, range(3))
    b = AdamW(parameters())
    b.load_state_dict(a.state_dict())
    state = a.state[params[0]]
    codes, scales = state["m.codes"].view(torch.int8).float(), state["m.scales"]
    expected = codes.view(-1, 128) * scales.view(-1, 1)
    assert torch.equal(b.state[b.param_groups[0]["params"][0]]["m"].view(-1, 128), expected)


def test_state_dict_is_plain_tensors_and_json(tmp_path) -> None:
    import json

    from safetensors.torch import load_file, save_file

    params = parameters()
    a = AdamW(params, m="dynamic_sym4", v="log4")
    walk(a, params, range(2))
    state = a.state_dict()
    json.dumps(state["param_groups"])
    header = state["param_groups"][0]["header"]["v"]
    assert {"code": "log4", "bits": 4, "block": 128, "signed": False, "version": 1}.items() <= header.items()
    flat = {f"{i}.{name}": t for i, s in state["state"].items() for name, t in s.items()}
    save_file(flat, tmp_path / "state.safetensors")
    assert load_file(tmp_path / "state.safetensors").keys() == flat.keys()
    assert {t.dtype for t in flat.values()} <= {torch.uint8, torch.int8, torch.float32}


def test_schedulers_drive_lr_and_betas() -> None:
    ours, theirs = parameters(), parameters()
    a, b = AdamW(ours, lr=1e-2), torch.optim.AdamW(theirs, lr=1e-2, foreach=False)
    for make in (
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1e-2, total_steps=12, cycle_momentum=True),
    ):
        schedules = make(a), make(b)
        for step in range(10):
            walk(a, ours, range(step, step + 1))
            walk(b, theirs, range(step, step + 1))
            for schedule in schedules:
                schedule.step()
        assert a.param_groups[0]["betas"] == b.param_groups[0]["betas"]
        assert same(ours, theirs)


def test_groups_have_their_own_moments_and_hyperparameters() -> None:
    params = parameters()
    first, rest = params[0], params[1:]
    a = AdamW([{"params": [first], "m": "int8", "v": "log8", "lr": 1e-1}, {"params": rest}], lr=0.0, weight_decay=0.0)
    before = [p.detach().clone() for p in rest]
    walk(a, params, range(2))
    assert "m.codes" in a.state[first]
    assert "m" in a.state[rest[-1]]
    assert all(torch.equal(p, q) for p, q in zip(rest, before, strict=True))


def test_a_parameter_without_gradient_is_untouched() -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8")
    walk(a, params, range(2))
    state = {name: tensor.clone() for name, tensor in a.state[params[0]].items()}
    weights = params[0].detach().clone()
    give_gradients(params, 2)
    params[0].grad = None
    a.step()
    assert torch.equal(params[0], weights)
    assert all(torch.equal(state[name], a.state[params[0]][name]) for name in state)


def test_the_closure_is_called_with_gradients_on() -> None:
    weight = nn.Parameter(torch.ones(70, 70))
    a = AdamW([weight], m="int8", v="log8")

    def closure() -> torch.Tensor:
        a.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert a.step(closure).item() == 4900
    assert weight.max() < 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8")
    walk(a, params, range(2))
    before, state = [p.detach().clone() for p in params], copy.deepcopy(a.state_dict())
    give_gradients(params, 2)
    params[-1].grad[3, 4] = bad
    with pytest.raises(FloatingPointError, match=r"0\.6"):
        a.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    now = a.state_dict()
    assert now["param_groups"] == state["param_groups"]
    assert all(torch.equal(t, state["state"][i][n]) for i, s in now["state"].items() for n, t in s.items())


def test_skip_leaves_out_only_the_tensor_that_is_not_finite() -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8", nonfinite="skip")
    before = [p.detach().clone() for p in params]
    give_gradients(params, 0)
    params[-1].grad[3, 4] = float("nan")
    a.step()
    assert torch.equal(params[-1], before[-1])
    assert params[-1] not in a.state
    assert not torch.equal(params[0], before[0])


def test_a_large_finite_gradient_is_not_taken_for_an_infinite_one() -> None:
    weight = nn.Parameter(torch.zeros(64, 64))
    a = AdamW([weight], m="int8", v="log8", weight_decay=0.0)
    for _ in range(3):
        weight.grad = torch.full((64, 64), 3e38)
        a.step()
        assert weight.isfinite().all()
    assert all(t.float().isfinite().all() for t in a.state[weight].values())


def test_stamped_parameters_bring_their_name_and_counter() -> None:
    stamped, named, counter = parameters(), parameters(), Counter(seed=3)
    for index, parameter in enumerate(stamped):
        parameter.pennyweight_name = f"layer.{index}"
        parameter.pennyweight_counter = counter
    a = AdamW(stamped, m="int8", v="log8", seed=77)
    b = AdamW([(f"layer.{i}", p) for i, p in enumerate(named)], m="int8", v="log8", seed=3)
    walk(a, stamped, range(5))
    walk(b, named, range(5))
    assert counter.step == 5
    assert same(stamped, named)
    other = parameters()
    walk(AdamW(other, m="int8", v="log8", seed=3), other, range(5))
    assert not same(other, named)


def test_loading_sets_the_counter_of_stamped_parameters() -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8", seed=3)
    walk(a, params, range(5))
    fresh, counter = parameters(), Counter(seed=8)
    for parameter in fresh:
        parameter.pennyweight_counter = counter
    AdamW(fresh, m="int8", v="log8").load_state_dict(a.state_dict())
    assert (counter.seed, counter.step) == (3, 5)


def test_noise_differs_between_m_and_v_and_between_steps_and_seeds() -> None:
    runs = []
    for seed in (0, 1):
        params = parameters()
        a = AdamW(params, m="int8", v="log8", seed=seed)
        walk(a, params, range(3))
        runs.append([t.clone() for t in a.state[params[0]].values()])
    assert not torch.equal(runs[0][1], runs[1][1])


def test_a_column_major_parameter_steps_like_a_row_major_one() -> None:
    a, b = nn.Parameter(torch.randn(96, 70).t()), None
    b = nn.Parameter(a.detach().contiguous())
    assert not a.is_contiguous()
    walk(AdamW([a], m="int8", v="log8"), [a], range(4))
    walk(AdamW([b], m="int8", v="log8"), [b], range(4))
    assert torch.equal(a, b)


def test_a_copied_optimizer_steps_on_like_the_first() -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8", seed=4)
    walk(a, params, range(2))
    both = copy.deepcopy({"optimizer": a, "params": params})
    walk(a, params, range(2, 5))
    walk(both["optimizer"], both["params"], range(2, 5))
    assert same(params, both["params"])


def test_weights_without_a_master_lie_on_their_grid() -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8", weights="int8/row")
    walk(a, params, range(3))
    weight = params[0].detach()
    scaled = weight / (weight.abs().amax(1, keepdim=True) / 127)
    assert (scaled - scaled.round()).abs().max() < 1e-3  # float32 division at 127
    assert not torch.allclose(params[1] * 1000, (params[1] * 1000).round())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"v": "int8"}, "log8"),
        ({"v": "udynamic8"}, "log8"),
        ({"v": "e4m3"}, "theta"),
        ({"m": "log8"}, "sign"),
        ({"m": "int9"}, "2 to 8"),
        ({"m": "imt8"}, "int8"),
        ({"lr": -1.0}, "lr"),
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"rounding": "up"}, "rounding"),
        ({"nonfinite": "ignore"}, "nonfinite"),
        ({"amsgrad": True}, "amsgrad"),
        ({"maximize": True}, "maximize"),
        ({"foreach": True}, "foreach"),
        ({"m": "int8/column"}, "column"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamW(parameters(), **settings)


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="rounding"):
        AdamW(parameters(), runding="nearest")


def test_torch_flags_that_are_off_are_taken() -> None:
    AdamW(parameters(), amsgrad=False, foreach=None, fused=False)


def test_a_refused_group_is_not_added() -> None:
    a = AdamW(parameters())
    with pytest.raises(ValueError, match="zero|theta"):
        a.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "v": "int8"})
    assert len(a.param_groups) == 1


def test_complex_parameters_and_sparse_gradients_are_refused() -> None:
    with pytest.raises(TypeError, match="real"):
        AdamW([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    table = nn.Embedding(10, 4, sparse=True)
    a = AdamW(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="dense"):
        a.step()


def test_states_of_another_shape_are_refused() -> None:
    a = AdamW([nn.Parameter(torch.zeros(64, 64))], m="int8", v="log8")
    a.param_groups[0]["params"][0].grad = torch.ones(64, 64)
    a.step()
    b = AdamW([nn.Parameter(torch.zeros(64, 128))], m="int8", v="log8")
    with pytest.raises(ValueError, match="shape"):
        b.load_state_dict(a.state_dict())


@pytest.mark.parametrize(
    ("m", "v"), [("fp32", "fp32"), *WRITTEN, ("expand_e4m3", "expand_e4m3"), ("int8/row", "int8/tensor-with-zero")]
)
def test_predicted_bytes_are_the_bytes(m: str, v: str) -> None:
    params = parameters()
    a = AdamW(params, m=m, v=v)
    walk(a, params, range(1))
    assert predicted_state_bytes([tuple(p.shape) for p in params], m, v) == state_bytes(a)


@pytest.mark.parametrize(
    ("m", "v", "each"),
    [
        ("dynamic8", "sqrt_nz8", 2 * 1.0156),
        ("dynamic8", "log8", 1.0156 + 1.0312),
        ("dynamic_sym4", "linear_nz4", 2 * 0.5312),
        ("dynamic_sym4", "log4", 0.5312 + 0.5625),
        ("expand_e4m3", "expand_e4m3", 2 * 1.0625),  # two floats a block; COAT keeps a third that cancels
    ],
)
def test_states_cost_what_the_table_says(m: str, v: str, each: float) -> None:
    weight = nn.Parameter(torch.randn(1024, 1024))
    a = AdamW([weight], m=m, v=v)
    weight.grad = torch.randn(1024, 1024)
    a.step()
    assert state_bytes(a) == pytest.approx(each * 2**20, rel=0.01)
