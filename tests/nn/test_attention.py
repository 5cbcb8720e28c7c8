"""A transformers model whose attention is switched trains like before, and nothing it saves says so."""

import copy
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, FalconConfig, GPT2Config, LlamaConfig, MistralConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pennyweight.kernels import compiled, has_attention
from pennyweight.nn import attention as room
from pennyweight.nn import faster_attention

pytestmark = pytest.mark.skipif(not has_attention(), reason="no compiled attention on this machine")

MODULE: Any = SimpleNamespace(is_causal=True, num_key_value_groups=1)


def built(family: str, **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "gpt2":
        dropout = {name: 0.0 for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
        config = GPT2Config(n_embd=128, n_head=2, n_layer=2, vocab_size=97, n_positions=128, **dropout | more)
    else:
        sizes = {"hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 2, "vocab_size": 97}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        config = {"llama": LlamaConfig, "mistral": MistralConfig, "falcon": FalconConfig}[family](
            **sizes, **heads, **more
        )
    return AutoModelForCausalLM.from_config(config)


def tokens(length: int = 70) -> Tensor:
    return torch.randint(97, (3, length), generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, autocast: bool = True, **more: Any) -> tuple[Tensor, list[Tensor]]:
    """The loss and every parameter's gradient."""
    model.train()
    x = tokens()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(input_ids=x, labels=x, **more).loss
    loss.backward()
    gradients = [p.grad.float() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return loss.detach().float(), gradients


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the two compiled calls were made."""
    made: list[str] = []

    def told(name: str) -> Callable[..., Any]:
        whole = getattr(room, name)
        return lambda *args, **named: made.append(name) or whole(*args, **named)

    for name in ("attention", "attention_backward"):
        monkeypatch.setattr(room, name, told(name))
    return made


def heads(length: int = 40, size: int = 64, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, length, 3, size, generator=generator).to(dtype).transpose(1, 2) for _ in range(3))
    return q, k, v


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_model_trains_like_with_sdpa(family: str, autocast: bool, calls: list[str]) -> None:
    model = built(family) if autocast else built(family).to(torch.bfloat16)
    exact_loss, exact = step(built(family), autocast=False)  # float32
    theirs_loss, theirs = step(model, autocast)
    assert not calls
    assert faster_attention(model) == 2
    loss, mine = step(model, autocast)
    assert calls == ["attention"] * 2 + ["attention_backward"] * 2
    assert (loss - theirs_loss).abs() <= 2**-8 * theirs_loss  # one rounding to bfloat16
    for one, other, wanted in zip(mine, theirs, exact, strict=True):
        error, its = ((x - wanted).norm() for x in (one, other))
        assert error <= 1.25 * its + 1e-6  # both are noise of bfloat16; a quarter for chance
    assert torch.isfinite(exact_loss)


def test_a_name_switches_a_model_too(calls: list[str]) -> None:
    model = built("llama")
    model.set_attn_implementation("pennyweight")
    step(model)
    assert calls == ["attention"] * 2 + ["attention_backward"] * 2


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_bit(reentrant: bool, calls: list[str]) -> None:
    model = built("gpt2")
    faster_attention(model)
    plain = step(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    again = step(model)
    assert calls.count("attention") == 2 + 4
    assert torch.equal(plain[0], again[0])
    assert all(torch.equal(one, other) for one, other in zip(plain[1], again[1], strict=True))


def test_checkpointed_attention_alone_gives_the_same_gradients() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return room.attention_forward(MODULE, q, k, v, None)[0]

    results = []
    for function in (attend, lambda *args: checkpoint(attend, *args, use_reentrant=False)):
        leaves = [x.clone().requires_grad_() for x in heads()]
        out = function(*leaves)
        assert isinstance(out, Tensor)
        results.append(torch.autograd.grad(out.float().square().sum(), leaves))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


ELSEWHERE: dict[str, dict[str, Any]] = {
    "mask": {"attention_mask": torch.ones(2, 1, 40, 40, dtype=torch.bool).tril()},
    "dropout": {"dropout": 0.3},
    "outputs": {"output_attentions": True},
    "window": {"sliding_window": 16},
    "bias": {"position_bias": torch.zeros(1, 3, 40, 40, dtype=torch.bfloat16)},
    "negative scale": {"scaling": -0.1},
}


@pytest.mark.parametrize("why", ELSEWHERE)
def test_what_is_more_than_plain_attention_is_transformers_own(why: str, calls: list[str]) -> None:
    arguments = {"attention_mask": None, **ELSEWHERE[why]}
    torch.manual_seed(3)
    mine, nothing = room.attention_forward(MODULE, *heads(), **arguments)
    torch.manual_seed(3)
    theirs = sdpa_attention_forward(MODULE, *heads(), **arguments)[0]
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)  # a negative scale gives it NaN
    assert nothing is None
    assert not calls


def test_few_queries_are_transformers_own(calls: list[str]) -> None:
    q, k, v = heads()
    mine = room.attention_forward(MODULE, q[:, :, :2], k, v, None)[0]
    assert torch.equal(mine, sdpa_attention_forward(MODULE, q[:, :, :2], k, v, None)[0])
    assert not calls


@pytest.mark.parametrize(("size", "dtype"), [(48, torch.bfloat16), (256, torch.bfloat16), (64, torch.float32)])
def test_other_sizes_and_dtypes_are_transformers_own(size: int, dtype: torch.dtype, calls: list[str]) -> None:
    mine = room.attention_forward(MODULE, *heads(size=size, dtype=dtype), None)[0]
    assert torch.equal(mine, sdpa_attention_forward(MODULE, *heads(size=size, dtype=dtype), None)[0])
    assert not calls


def test_a_padded_batch_trains_as_before(calls: list[str]) -> None:
    mask = torch.ones(3, 70, dtype=torch.long)
    mask[1, 60:] = 0
    model = built("llama")
    theirs = step(model, attention_mask=mask)
    faster_attention(model)
    mine = step(model, attention_mask=mask)
    assert not calls
    assert all(torch.equal(one, other) for one, other in zip(mine[1], theirs[1], strict=True))


def test_generating_gives_the_same_tokens() -> None:
    model = built("llama").to(torch.bfloat16).eval()
    arguments: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    before = model.generate(tokens(33), **arguments)
    faster_attention(model)
    assert torch.equal(model.generate(tokens(33), **arguments), before)


def test_is_causal_means_what_it_means_there() -> None:
    q, k, v = heads()
    for causal in (True, False, None):
        for own in (True, False):
            module: Any = SimpleNamespace(is_causal=own, num_key_value_groups=1)
            mine = room.attention_forward(module, q, k, v, None, is_causal=causal)[0]
            its = sdpa_attention_forward(module, q, k, v, None, is_causal=causal)[0]
            torch.testing.assert_close(mine, its, rtol=2**-7, atol=2**-8)  # one rounding each
    one = room.attention_forward(MODULE, q[:, :, :1], k, v, None)[0]  # a single query sees every key
    torch.testing.assert_close(one, sdpa_attention_forward(MODULE, q[:, :, :1], k, v, None)[0], rtol=2**-7, atol=2**-8)


def test_autocast_casts_what_sdpa_would_cast(calls: list[str]) -> None:
    leaves = [x.requires_grad_() for x in heads(dtype=torch.float32)]
    with torch.autocast("cpu", torch.bfloat16):
        out = room.attention_forward(MODULE, *leaves, None)[0]
    assert out.dtype == torch.bfloat16
    assert [grad.dtype for grad in torch.autograd.grad(out.float().sum(), leaves)] == [torch.float32] * 3
    assert calls == ["attention", "attention_backward"]


def test_gradients_of_gradients_are_those_of_the_formula() -> None:
    def twice(attend: Callable[..., Tensor], leaves: list[Tensor]) -> tuple[Tensor, ...]:
        (grad,) = torch.autograd.grad(attend(*leaves).double().square().sum(), leaves[0], create_graph=True)
        return torch.autograd.grad(grad.double().square().sum(), leaves)

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT / 8).masked_fill(torch.ones(20, 20).triu(1).bool(), -torch.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2)

    mine = twice(
        lambda *x: room.attention_forward(MODULE, *x, None)[0], [x.clone().requires_grad_() for x in heads(20)]
    )
    wanted = twice(formula, [x.double().requires_grad_() for x in heads(20)])
    for one, other in zip(mine, wanted, strict=True):
        assert (one - other).norm() <= 0.02 * other.norm()  # bfloat16 in each of a dozen products
    alone = twice(lambda q: room.attention_forward(MODULE, q, *heads(20)[1:], None)[0], [heads(20)[0].requires_grad_()])
    assert torch.equal(alone[0], mine[0])


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # SDPA has no rule for batches of batches
def test_transforms_of_torch_func_take_sdpa(calls: list[str]) -> None:
    q, k, v = heads(20, dtype=torch.bfloat16)
    batched = torch.func.vmap(lambda x: room.attention_forward(MODULE, x, k, v, None)[0])(torch.stack((q, q)))
    assert torch.equal(batched[0], batched[1])
    assert not calls


def test_shapes_alone_can_be_had(calls: list[str]) -> None:
    meta = room.attention_forward(MODULE, *(x.to("meta") for x in heads()), None)[0]
    assert meta.shape == (2, 40, 3, 64)
    assert not calls


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, while it traces
def test_a_compiled_model_gives_the_same_bits() -> None:
    model = built("gpt2")
    faster_attention(model)
    loss, gradients = step(model)
    again, others = step(torch.compile(model, backend="eager"))  # type: ignore[arg-type]
    assert torch.equal(again, loss)
    assert all(torch.equal(one, other) for one, other in zip(others, gradients, strict=True))


def test_models_that_cannot_be_switched_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faster_attention(built("gpt2", attn_implementation="eager")) == 0
    falcon = built("falcon")
    assert faster_attention(falcon) == 0  # its own code asks whether the name is "sdpa"
    assert falcon.config._attn_implementation == "sdpa"
    assert faster_attention(nn.Linear(3, 3)) == 0
    monkeypatch.setattr(compiled, "missing", lambda: "hidden by a test")
    model = built("gpt2")
    assert faster_attention(model) == 0
    assert model.config._attn_implementation == "sdpa"


def test_nothing_saved_names_us(tmp_path: Path) -> None:
    model = built("gpt2")
    faster_attention(model)
    model.save_pretrained(tmp_path)
    assert "pennyweight" not in (tmp_path / "config.json").read_text()
    assert "pennyweight" not in json.dumps(model.config.to_dict())
    assert b"pennyweight" not in pickle.dumps(model)


@pytest.mark.long
def test_what_is_saved_loads_where_there_is_no_pennyweight(tmp_path: Path) -> None:
    model = built("gpt2")
    faster_attention(model)
    model.save_pretrained(tmp_path / "saved")
    torch.save(model, tmp_path / "whole.pt")
    code = (
        "import sys, torch; sys.modules['pennyweight'] = None; from transformers import AutoModelForCausalLM as A; "
        "folder = sys.argv[1]; x = torch.arange(9)[None]; "
        "one = A.from_pretrained(folder + '/saved').eval(); two = torch.load(folder + '/whole.pt', weights_only=False);"
        "assert torch.equal(one(x).logits, two.eval()(x).logits); print(two.config._attn_implementation)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "sdpa", done.stderr


def test_copies_stay_switched_and_pickles_do_not(calls: list[str]) -> None:
    model = built("gpt2")
    faster_attention(model)
    step(copy.deepcopy(model))
    assert len(calls) == 4
    read = pickle.load(io.BytesIO(pickle.dumps(model)))
    step(read)
    assert len(calls) == 4
    assert faster_attention(read) == 2


def test_a_model_of_windows_goes_to_sdpa(calls: list[str]) -> None:
    model = built("mistral", sliding_window=16)
    theirs = step(model)
    faster_attention(model)
    mine = step(model)
    assert not calls
    assert torch.equal(mine[0], theirs[0])


def test_a_model_of_the_same_config_stays_as_it_is() -> None:
    first = built("llama")
    second = type(first)(first.config)
    assert faster_attention(first) == 2
    assert {first.config._attn_implementation, second.config._attn_implementation} == {"pennyweight", "sdpa"}
    assert all(module.config is first.config for module in first.modules() if hasattr(module, "config"))
    assert faster_attention(second) == 2
