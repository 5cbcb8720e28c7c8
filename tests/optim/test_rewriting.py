"""Saving and loading: resumes are bit-equal, files are plain, other bits are converted."""

import copy
import json
import logging
import pickle

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import load_file, save_file
from torch import nn

from pennyweight.numerics import Counter
from pennyweight.optim import AdamW, predicted_state_bytes, state_bytes

WRITTEN = [("int8", "log8"), ("dynamic_sym4", "log4"), ("dynamic8", "sqrt_nz8"), ("bf16", "bf16")]


@pytest.mark.parametrize(("m", "v"), [("fp32", "fp32"), *WRITTEN])
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_resume_at_any_step_is_bit_equal(parameters, walk, same, m: str, v: str, stop: int, tmp_path) -> None:
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


def test_a_resume_that_forgets_the_counter_is_not_bit_equal(parameters, walk, same) -> None:
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


def test_loading_does_not_share_memory_with_the_checkpoint(parameters, walk) -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8")
    walk(a, params, range(2))
    state = a.state_dict()
    before = copy.deepcopy(state)
    b = AdamW(parameters(), m="int8", v="log8")
    b.load_state_dict(state)
    walk(b, b.param_groups[0]["params"], range(2, 4))
    assert all(torch.equal(t, before["state"][i][n]) for i, s in state["state"].items() for n, t in s.items())


def test_codes_and_float32_states_survive_loading_for_bf16_parameters(parameters, walk) -> None:
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


def test_states_of_torch_adamw_are_taken_over(parameters, walk, same) -> None:
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


def other_state(name: str) -> dict:
    """What AdamW cannot load."""
    one = [nn.Parameter(torch.ones(64, 64))]
    if name == "sgd":
        return torch.optim.SGD(one, lr=0.1).state_dict()
    state = AdamW(one).state_dict()
    if name == "betas":
        state["param_groups"][0]["betas"] = (0.9, 1.0)
    return {} if name == "empty" else {"param_groups": state["param_groups"]} if name == "half" else state


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sgd", "^AdamW loads the state of an Adam, got a group without betas, eps: it has lr, momentum, "),
        ("empty", r"^AdamW loads what its state_dict\(\) gave, got no state and no param_groups$"),
        ("half", r"^AdamW loads what its state_dict\(\) gave, got no state$"),
        ("betas", r"^AdamW wants betas\[1\] from 0 to below 1, got 1.0$"),
    ],
)
def test_a_state_that_is_not_of_an_adam_is_refused_and_changes_nothing(name: str, said: str) -> None:
    parameter = nn.Parameter(torch.ones(64, 64))
    optimizer = AdamW([parameter], m="int8", v="log8", betas=(0.8, 0.95))
    parameter.grad = torch.ones(64, 64)
    optimizer.step()
    groups = copy.deepcopy(optimizer.state_dict()["param_groups"])
    with pytest.raises(ValueError, match=said):
        optimizer.load_state_dict(other_state(name))
    assert optimizer.state_dict()["param_groups"] == groups
    optimizer.step()
    assert optimizer.state[parameter]["step"] == 2


@pytest.mark.parametrize(
    ("old", "new"), [("int8", "fp32"), ("fp32", "int8"), ("int8/block64", "int8"), ("dynamic_sym4", "bf16")]
)
def test_loading_other_bits_converts_with_a_line_or_refuses(parameters, walk, old: str, new: str, caplog) -> None:
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


def test_a_conversion_to_float32_keeps_the_decoded_values(parameters, walk) -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8", rounding="nearest")
    walk(a, params, range(3))
    b = AdamW(parameters())
    b.load_state_dict(a.state_dict())
    state = a.state[params[0]]
    codes, scales = state["m.codes"].view(torch.int8).float(), state["m.scales"]
    expected = codes.view(-1, 128) * scales.view(-1, 1)
    assert torch.equal(b.state[b.param_groups[0]["params"][0]]["m"].view(-1, 128), expected)


def test_state_dict_is_plain_tensors_and_json(parameters, walk, tmp_path) -> None:
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


def test_a_group_may_change_its_moments_between_steps(parameters, walk, caplog) -> None:
    params = parameters()
    a = AdamW(params, m="dynamic_sym4", v="log4")
    walk(a, params, range(3))
    small = state_bytes(a)
    a.param_groups[0].update(m="fp32", v="log8")
    with caplog.at_level(logging.WARNING):
        walk(a, params, range(3, 5))
    assert "converts" in caplog.text
    assert state_bytes(a) == predicted_state_bytes([tuple(p.shape) for p in params], "fp32", "log8") > small


def test_states_of_amsgrad_are_refused(parameters, walk) -> None:
    params = parameters()
    b = torch.optim.AdamW(params, amsgrad=True, foreach=False)
    walk(b, params, range(1))
    with pytest.raises(ValueError, match="amsgrad"):
        AdamW(parameters()).load_state_dict(b.state_dict())


def test_a_pickled_optimizer_keeps_its_counter(parameters, walk) -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8", seed=6)
    walk(a, params, range(2))
    b = pickle.loads(pickle.dumps(a))
    assert [c.state() for c in b.counters()] == [{"seed": 6, "step": 2, "micro_batch": 0}]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_states_pass_through_a_distributed_checkpoint(parameters, walk, tmp_path) -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8")
    walk(a, params, range(2))
    saved = a.state_dict()
    torch.distributed.checkpoint.save({"optimizer": saved}, checkpoint_id=tmp_path)
    b = AdamW(parameters(), m="int8", v="log8")
    walk(b, b.param_groups[0]["params"], range(1))
    read = b.state_dict()
    torch.distributed.checkpoint.load({"optimizer": read}, checkpoint_id=tmp_path)
    b.load_state_dict(read)
    for p, q in zip(params, b.param_groups[0]["params"], strict=True):
        assert all(torch.equal(a.state[p][name], b.state[q][name]) for name in a.state[p])


def test_loading_sets_the_counter_of_stamped_parameters(parameters, walk) -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8", seed=3)
    walk(a, params, range(5))
    fresh, counter = parameters(), Counter(seed=8)
    for parameter in fresh:
        parameter.pennyweight_counter = counter
    AdamW(fresh, m="int8", v="log8").load_state_dict(a.state_dict())
    assert (counter.seed, counter.step) == (3, 5)


def test_a_copied_optimizer_steps_on_like_the_first(parameters, walk, same) -> None:
    params = parameters()
    a = AdamW(params, m="int8", v="log8", seed=4)
    walk(a, params, range(2))
    both = copy.deepcopy({"optimizer": a, "params": params})
    walk(a, params, range(2, 5))
    walk(both["optimizer"], both["params"], range(2, 5))
    assert same(params, both["params"])


def test_states_of_another_shape_are_refused() -> None:
    a = AdamW([nn.Parameter(torch.zeros(64, 64))], m="int8", v="log8")
    a.param_groups[0]["params"][0].grad = torch.ones(64, 64)
    a.step()
    b = AdamW([nn.Parameter(torch.zeros(64, 128))], m="int8", v="log8")
    with pytest.raises(ValueError, match="shape"):
        b.load_state_dict(a.state_dict())


def test_a_state_is_read_without_the_library(parameters, walk) -> None:
    """The formulas of the docstring, in plain torch."""
    params = parameters()
    a = AdamW(params, m="dynamic_sym4", v="log4")
    walk(a, params, range(3))
    state, number = a.state_dict()["state"][0], params[0].numel()
    book = [0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 1.0]
    values = torch.tensor([-x for x in reversed(book)] + [0.0, *book])
    codes = {slot: torch.stack([state[f"{slot}.codes"] & 15, state[f"{slot}.codes"] >> 4], -1) for slot in "mv"}
    k = {slot: c.view(-1)[:number].view(-1, 128) for slot, c in codes.items()}
    m = values[k["m"].int()] * state["m.scales"][:, None]
    v = state["v.scales"][:, None] * torch.exp2(-state["v.extra"][:, None] * (1 - k["v"].float() / 15))
    b = AdamW(parameters())
    b.load_state_dict(a.state_dict())
    read = b.state[b.param_groups[0]["params"][0]]
    torch.testing.assert_close(read["m"].view(-1, 128), m, rtol=1e-6, atol=0)  # float32 products
    torch.testing.assert_close(read["v"].view(-1, 128), v, rtol=1e-5, atol=0)  # float32 exp2 at 20 octaves
