"""The loss is torch's cross entropy, with one copy of the logits, or with none where a head in chunks will do."""

import pytest
import torch

from pennyweight.nn import quantize
from pennyweight.training import objectives
from pennyweight.training.objectives import NextToken, cross_entropy


@pytest.mark.parametrize("rows_bytes", [1, 1 << 21])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_torchs_cross_entropy(dtype, rows_bytes, monkeypatch):
    monkeypatch.setattr(objectives, "ROWS_BYTES", rows_bytes)
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(37, 11, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(0, 11, (37,), generator=generator)
    ours = cross_entropy(logits, targets)
    (2 * ours).backward()
    gradient = logits.grad.clone()
    logits.grad = None
    theirs = torch.nn.functional.cross_entropy(logits.float(), targets)
    (2 * theirs).backward()
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, rtol=1e-6)  # float32: another order of sums
    assert gradient.dtype == dtype
    # 1e-5: exp in float32 of a difference near 10; in bf16 that may fall on the other side of one rounding
    rtol = max(1e-5, torch.finfo(dtype).eps)
    assert torch.allclose(gradient.float(), logits.grad.float(), rtol=rtol, atol=1e-8)


def test_certain_and_wrong_is_the_logits_distance():
    logits = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert cross_entropy(logits, torch.tensor([0, 0])).item() == 50.0


def test_only_the_logits_as_they_came_are_kept():
    logits = torch.randn(256, 512).bfloat16().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        cross_entropy(logits, torch.zeros(256, dtype=torch.int64))
    assert sum(t.nbytes for t in kept) == 256 * 512 * 2 + 256 * 8 + 256 * 4


def test_the_gradient_is_what_finite_differences_say():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 3, 1])
    loss = cross_entropy(logits, targets)
    loss.backward()
    with torch.no_grad():
        for place in [(0, 0), (0, 1), (2, 3)]:
            step = torch.zeros_like(logits)
            step[place] = 1e-2
            slope = (cross_entropy(logits + step, targets) - cross_entropy(logits - step, targets)) / 2e-2
            # 1e-3: the loss is float32 (1e-7 relative over a step of 2e-2) and the curve bends (1e-4)
            assert slope.item() == pytest.approx(logits.grad[place].item(), abs=1e-3)


def model_of(kind, **changes):
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 512}
    sizes |= {"hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 64, "head_dim": 8}
    if kind == "gpt2":
        sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 512, "n_positions": 64}
        sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if kind == "phi":
        del sizes["head_dim"]
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes, **ends, **changes))


def largest(call):
    """The most numbers in one tensor that any operation of a call and of its backward pass gives."""

    class Recorded(torch.utils._python_dispatch.TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            every = result if isinstance(result, tuple | list) else [result]
            self.most = max(self.most, *(t.numel() for t in every if isinstance(t, torch.Tensor)), 0)
            return result

    with Recorded() as seen:
        loss = call()
        if loss.requires_grad:
            loss.backward()
    return seen.most


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("kind", "recipe", "opened"),
    [("gpt2", "bf16", True), ("llama", "w8a8g8", True), ("gemma2", "bf16", False), ("llama", "paper-w8a8g8", False)],
)
def test_all_logits_are_held_only_where_the_head_is_not_the_end(kind, recipe, opened, train):
    model, tokens = model_of(kind), torch.randint(0, 512, (32, 65))
    quantize(model, recipe)
    NextToken()(model, tokens[:1])  # looks at the model, and the layers find their kernels
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(train):
        most = largest(lambda: NextToken()(model, tokens))
    assert (most < 32 * 64 * 512) == opened


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "phi", "gemma2", "cohere", "granite"])
def test_the_loss_and_its_gradients_are_those_of_the_models_own_logits(kind, precision):
    model, tokens = model_of(kind), torch.randint(0, 512, (4, 33), generator=torch.Generator().manual_seed(1))

    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # biases too

    def whole():
        logits = model(tokens[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    def found(loss_of, autocast):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of()
        loss.backward()
        return loss, torch.cat([p.grad.flatten() for p in model.parameters()])

    true = found(whole, False)[1]
    ours, mine = found(lambda: NextToken()(model, tokens), precision == "bf16")
    theirs, right = found(whole, precision == "bf16")
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, rtol=1e-6)  # float32: another order of sums
    # float32: another order of sums; bf16: of 128 tokens softmax - one_hot is rounded alike; a tenth more error at most
    assert (mine - true).norm() <= 1e-5 * true.norm() + 1.1 * (right - true).norm()


def test_a_written_model_counts_one_micro_batch_for_each_loss():
    model, tokens = model_of("gpt2"), torch.randint(0, 512, (2, 9))
    counter = quantize(model, "w8a8g8").counter
    for number in (1, 2):
        NextToken()(model.train(), tokens).backward()
        assert counter.micro_batch == number
    assert model.lm_head(torch.ones(1, 16)).shape == (1, 512)
