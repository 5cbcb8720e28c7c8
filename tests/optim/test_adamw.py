"""AdamW as a whole: its ancestor, its drop-in manners, its refusals."""

import copy

import pytest
import torch
from torch import nn

from pennyweight.numerics import Counter
from pennyweight.optim import AdamW

WRITTEN = [("int8", "log8"), ("dynamic_sym4", "log4"), ("dynamic8", "sqrt_nz8"), ("bf16", "bf16")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_fp32_moments_are_torch_adamw_bit_for_bit(
    parameters, walk, same, dtype: torch.dtype, decay: float, tensor_lr: bool
) -> None:
    ours, theirs = parameters(dtype=dtype), parameters(dtype=dtype)
    lr = torch.tensor(3e-3) if tensor_lr else 3e-3
    a = AdamW(ours, lr=lr, betas=(0.9, 0.99), weight_decay=decay)
    b = torch.optim.AdamW(theirs, lr=lr, betas=(0.9, 0.99), weight_decay=decay, foreach=False, fused=False)
    for step in range(100):
        walk(a, ours, range(step, step + 1))
        walk(b, theirs, range(step, step + 1))
        assert same(ours, theirs)


@pytest.mark.parametrize(("threads", "size"), [(1, 200_003), (2, 200_003)])
def test_chunks_do_not_change_a_bit(walk, same, threads: int, size: int) -> None:
    torch.set_num_threads(threads)
    ours, theirs = ([nn.Parameter(torch.linspace(-1, 1, size).view(1, -1).clone())] for _ in range(2))
    a, b = AdamW(ours), torch.optim.AdamW(theirs, foreach=False, fused=False)
    for step in range(5):
        walk(a, ours, range(step, step + 1))
        walk(b, theirs, range(step, step + 1))
    assert same(ours, theirs)


@pytest.mark.parametrize(("m", "v"), WRITTEN)
def test_first_step_does_not_depend_on_the_code(parameters, walk, same, readable, m: str, v: str) -> None:
    ours, theirs = parameters(), parameters()
    walk(AdamW(ours, m=m, v=v), ours, range(1))
    walk(torch.optim.AdamW(theirs, foreach=False), theirs, range(1))
    assert same(ours, theirs)


def test_without_beta1_the_code_of_m_has_no_influence(parameters, walk, same) -> None:
    ours, theirs = parameters(), parameters()
    walk(AdamW(ours, betas=(0.0, 0.99), m="dynamic_sym4"), ours, range(20))
    walk(AdamW(theirs, betas=(0.0, 0.99)), theirs, range(20))
    assert same(ours, theirs)


@pytest.mark.parametrize(("m", "v"), WRITTEN)
def test_tensors_of_many_dims_and_elements_are_written_and_no_other(parameters, walk, m: str, v: str) -> None:
    params = parameters()
    optimizer = AdamW(params, m=m, v=v)
    walk(optimizer, params, range(2))
    rest = params[1:-1]
    assert {name for p in rest for name in optimizer.state[p]} == {"step", "m", "v"}
    assert all(optimizer.state[p]["m"].dtype == torch.float32 for p in rest)
    for p in (params[0], params[-1]):
        held = {name: t for name, t in optimizer.state[p].items() if name != "step"}
        assert sum(t.numel() * t.element_size() for t in held.values()) < 0.55 * 8 * p.numel()


def test_clipped_gradients_of_a_compiled_model_train_it(parameters) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64))
    model = torch.compile(layers, backend="eager")
    optimizer = AdamW(model.named_parameters(), lr=1e-2, m="int8", v="log8")
    inputs, losses = torch.randn(32, 64), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_schedulers_drive_lr_and_betas(parameters, walk, same) -> None:
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


def test_groups_have_their_own_moments_and_hyperparameters(parameters, walk) -> None:
    params = parameters()
    first, rest = params[0], params[1:]
    a = AdamW([{"params": [first], "m": "int8", "v": "log8", "lr": 1e-1}, {"params": rest}], lr=0.0, weight_decay=0.0)
    before = [p.detach().clone() for p in rest]
    walk(a, params, range(2))
    assert "m.codes" in a.state[first]
    assert "m" in a.state[rest[-1]]
    assert all(torch.equal(p, q) for p, q in zip(rest, before, strict=True))


def test_a_parameter_without_gradient_is_untouched(parameters, give_gradients, walk) -> None:
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
def test_a_gradient_that_is_not_finite_changes_nothing(parameters, give_gradients, walk, bad: float) -> None:
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


def test_skip_leaves_out_only_the_tensor_that_is_not_finite(parameters, give_gradients) -> None:
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


def test_stamped_parameters_bring_their_name_and_counter(parameters, walk, same) -> None:
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


def test_noise_differs_between_m_and_v_and_between_steps_and_seeds(parameters, walk) -> None:
    runs = []
    for seed in (0, 1):
        params = parameters()
        a = AdamW(params, m="int8", v="log8", seed=seed)
        walk(a, params, range(3))
        runs.append([t.clone() for t in a.state[params[0]].values()])
    assert not torch.equal(runs[0][1], runs[1][1])


def test_a_column_major_parameter_steps_like_a_row_major_one(walk) -> None:
    a, b = nn.Parameter(torch.randn(96, 70).t()), None
    b = nn.Parameter(a.detach().contiguous())
    assert not a.is_contiguous()
    walk(AdamW([a], m="int8", v="log8"), [a], range(4))
    walk(AdamW([b], m="int8", v="log8"), [b], range(4))
    assert torch.equal(a, b)


def test_weights_without_a_master_lie_on_their_grid(parameters, walk) -> None:
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
        ({"eps": 1e-46}, "eps of 0, or of 1.4e-45 or more, below which float32 holds 0, got 1e-46"),
        ({"rounding": "up"}, "rounding"),
        ({"nonfinite": "ignore"}, "nonfinite"),
        ({"amsgrad": True}, "amsgrad"),
        ({"maximize": True}, "maximize"),
        ({"foreach": True}, "foreach"),
        ({"m": "int8/column"}, "column"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(parameters, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamW(parameters(), **settings)


def test_an_unknown_setting_names_the_nearest(parameters) -> None:
    with pytest.raises(TypeError, match="rounding"):
        AdamW(parameters(), runding="nearest")


def test_torch_flags_that_are_off_are_taken(parameters) -> None:
    a = AdamW(parameters(), amsgrad=False, foreach=None, fused=False)
    assert a.param_groups[0].keys() == AdamW(parameters()).param_groups[0].keys()  # taken, and nothing kept of them


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"m": None}, "AdamW's m is a format as text, such as 'int8' or 'fp32', got None"),
        ({"v": ["log8"]}, r"AdamW's v is a format as text, such as 'int8' or 'fp32', got \['log8'\]"),
        ({"lr": None}, "AdamW's lr is a number, got None"),
        ({"eps": "1e-8"}, "AdamW's eps is a number, got '1e-8'"),
        ({"betas": 0.9}, r"AdamW's betas are two numbers, \(0.9, 0.999\), got 0.9"),
    ],
)
def test_a_setting_of_another_kind_is_a_type_error_in_a_sentence(parameters, settings: dict, sentence: str) -> None:
    with pytest.raises(TypeError, match=f"^{sentence}$"):
        AdamW(parameters(), **settings)


def test_a_refused_group_is_not_added(parameters) -> None:
    a = AdamW(parameters())
    with pytest.raises(ValueError, match="zero|theta"):
        a.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "v": "int8"})
    assert len(a.param_groups) == 1


def test_complex_parameters_and_sparse_gradients_are_refused(parameters) -> None:
    with pytest.raises(TypeError, match="real"):
        AdamW([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    table = nn.Embedding(10, 4, sparse=True)
    a = AdamW(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="dense"):
        a.step()


@pytest.mark.parametrize("settings", [{}, {"m": "int8/block128", "v": "log8/block128", "min_numel": 1}])
def test_parameters_taken_one_by_one_in_any_order_end_as_in_one_step(settings):
    torch.manual_seed(0)
    values = [torch.randn(64, 128) for _ in range(3)]
    whole, single = ([torch.nn.Parameter(value.clone()) for value in values] for _ in range(2))
    a, b = AdamW(whole, **settings), AdamW(single, **settings)
    for _ in range(3):
        gradients = [torch.randn(64, 128) for _ in values]
        for parameter, gradient in zip(whole, gradients, strict=True):
            parameter.grad = gradient.clone()
        a.step()
        for index in (2, 0, 1):
            single[index].grad = gradients[index].clone()
            b.take(single[index])
            single[index].grad = None
        b.step()
    assert all(torch.equal(one, other) for one, other in zip(whole, single, strict=True))
    assert a.counters()[0].state() == b.counters()[0].state() == {"seed": 0, "step": 3, "micro_batch": 0}


def test_a_parameter_is_taken_once_a_step_and_only_if_its_gradient_is_finite():
    weight, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = AdamW([weight])
    weight.grad = torch.tensor([1.0, float("nan")])
    with pytest.raises(FloatingPointError, match="its weight and its moments stay"):
        optimizer.take(weight)
    assert torch.equal(weight, torch.ones(2))
    weight.grad, other.grad = torch.ones(2), torch.ones(2)
    optimizer.take(weight)
    moved = weight.detach().clone()
    assert not torch.equal(moved, torch.ones(2))
    for again in (weight, other):
        with pytest.raises(ValueError, match="once a step, got one that it has taken or does not hold"):
            optimizer.take(again)
    optimizer.step()  # which leaves alone what has been taken
    assert torch.equal(weight, moved)
    optimizer.take(weight)
    assert not torch.equal(weight, moved)
    weight.grad = None
    with pytest.raises(ValueError, match="got one whose .grad is None"):
        AdamW([weight]).take(weight)
