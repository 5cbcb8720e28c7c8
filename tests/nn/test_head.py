"""The head's loss in chunks is torch's cross entropy of whole logits, and so are its gradients."""

import math

import pytest
import torch
from torch.nn import functional

from pennyweight.nn import head, head_cross_entropy


def operands(tokens=37, channels=19, words=53, dtype=torch.float32, seed=0):
    """(hidden, weight, bias, labels) of odd sizes; every fifth label does not count."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(tokens, channels), (words, channels), (words,)]
    made = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    labels = torch.randint(0, words, (tokens,), generator=generator)
    labels[::5] = -100
    return *made, labels


def whole(hidden, weight, labels, bias=None):
    """The loss of all logits at once, as a transformers model computes it."""
    logits = functional.linear(hidden, weight, bias)
    return functional.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), labels)


def gradients(loss, tensors, scale=1.0):
    found = torch.autograd.grad(loss * scale, tensors)
    assert [g.dtype for g in found] == [t.dtype for t in tensors]
    assert [g.shape for g in found] == [t.shape for t in tensors]
    return found


class Recorded(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor that any operation gives, and how many of them are products."""

    largest = products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("cache", [1, 1 << 21])
@pytest.mark.parametrize("chunk", [1, 8, 37, 512])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_torchs_loss_and_gradient_of_whole_logits(dtype, with_bias, chunk, cache, monkeypatch):
    monkeypatch.setattr(head, "CACHE_BYTES", cache)
    hidden, weight, bias, labels = operands(dtype=dtype)
    bias = bias if with_bias else None
    tensors = [t for t in (hidden, weight, bias) if t is not None]
    ours = head_cross_entropy(hidden, weight, labels, bias=bias, chunk=chunk)
    theirs = whole(hidden, weight, labels, bias)
    assert ours.dtype == dtype
    assert ours.shape == ()
    # 64 eps: sums of 37, 19 and 53 numbers of size one, in another order
    bound = 64 * torch.finfo(dtype).eps
    assert torch.allclose(ours, theirs, rtol=bound)
    for mine, right in zip(gradients(ours, tensors, 3.0), gradients(theirs, tensors, 3.0), strict=True):
        assert torch.allclose(mine, right, rtol=0, atol=bound)


@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [3, 200, 1100])
def test_under_autocast_it_keeps_the_bound_of_its_docstring(tokens, hidden_dtype):
    hidden, weight, bias, labels = operands(tokens, 67, 131)
    hidden = hidden.detach().to(hidden_dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        ours = head_cross_entropy(hidden, weight, labels, bias=bias)
        theirs = whole(hidden, weight, labels, bias)
    mine, right = (gradients(loss, [hidden, weight, bias]) for loss in (ours, theirs))
    unit = 2.0**-9
    h, w = hidden.detach().bfloat16().double(), weight.detach().bfloat16().double()
    logits = h @ w.T + bias.detach().double()
    assert ours.dtype == torch.float32
    assert abs(ours.item() - theirs.item()) <= 2 * unit * logits.abs().max()
    counts = (labels != -100).double()[:, None]
    p = logits.softmax(1) - functional.one_hot(labels.clamp(min=0), 131)
    p = (p * counts / counts.sum()).abs()
    # a logit may be rounded to its other neighbour, 2 unit |logit| away, and moves P by twice as much: the last factor
    slack = 1 + logits.abs().max()
    for one, other, scale in zip(mine, right, (p @ w.abs(), p.T @ h.abs(), p.sum(0)), strict=True):
        assert ((one.double() - other.double()).abs() <= 4 * unit * scale * slack).all()
    exact = torch.autograd.grad(whole(h.requires_grad_(), w.requires_grad_(), labels, bias.detach().double()), [h, w])
    for one, other, true in zip(mine, right, exact, strict=False):  # and in the large they are equally good
        assert (one - true).norm() <= 1.2 * (other - true).norm()


def test_a_hand_computed_case():
    # logits [[0, ln 3], [ln 3, 0]] -> probabilities [[1/4, 3/4], [3/4, 1/4]]; both labels are 1
    hidden, three = torch.eye(2, dtype=torch.float64), math.log(3)
    weight = torch.tensor([[0.0, three], [three, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = head_cross_entropy(hidden, weight, torch.tensor([1, 1]), chunk=1)
    assert loss.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    loss.backward()
    assert weight.grad.tolist() == [pytest.approx([0.125, 0.375]), pytest.approx([-0.125, -0.375])]


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_what_wants_a_gradient_gets_one(wanted):
    tensors = [t.detach().clone() for t in operands()[:3]]
    labels = operands()[3]
    chosen = [tensors[place].requires_grad_() for place in wanted]
    head_cross_entropy(tensors[0], tensors[1], labels, bias=tensors[2]).backward()
    right = torch.autograd.grad(whole(tensors[0], tensors[1], labels, tensors[2]), chosen)
    assert [t.grad is not None for t in tensors] == [place in wanted for place in range(3)]
    for tensor, expected in zip(chosen, right, strict=True):
        assert torch.allclose(tensor.grad, expected, atol=1e-6)  # 1e-6: float32 sums of 37 and 53


def test_labels_that_are_all_ignored_give_torchs_nan_and_no_gradient():
    hidden, weight, bias, labels = operands()
    labels[:] = -100
    ours, theirs = head_cross_entropy(hidden, weight, labels, bias=bias), whole(hidden, weight, labels, bias)
    assert ours.isnan()
    assert theirs.isnan()
    for found in (gradients(ours, [hidden, weight, bias]), gradients(theirs, [hidden, weight, bias])):
        assert not any(g.any() for g in found)


def test_another_label_can_be_the_one_that_does_not_count():
    hidden, weight, _, labels = operands()
    labels = labels.clamp(min=7)
    theirs = functional.cross_entropy(hidden @ weight.T, labels, ignore_index=7)
    assert torch.allclose(head_cross_entropy(hidden, weight, labels, ignore_index=7), theirs)


def test_a_negative_label_that_is_not_the_ignored_one_is_an_error_as_in_torch():
    hidden, weight, _, labels = operands()
    labels[1] = -5
    with pytest.raises(RuntimeError, match="index -5 is out of bounds"):
        head_cross_entropy(hidden, weight, labels)


def test_float64_stays_float64_under_autocast_as_in_torch():
    hidden, weight, _, labels = operands(dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = head_cross_entropy(hidden, weight, labels), whole(hidden, weight, labels)
    assert ours.dtype == theirs.dtype == torch.float64
    assert torch.allclose(ours, theirs, rtol=1e-14)  # 64 eps, as above


def test_the_weights_gradient_adds_up_in_float32_over_many_chunks():
    hidden, labels = torch.ones(4096, 1), torch.zeros(4096, dtype=torch.int64)
    weight = torch.zeros(2, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):  # each chunk gives -1/2: in bf16 the sum would stay at -256
        head_cross_entropy(hidden, weight, labels, chunk=1).backward()
    assert weight.grad.tolist() == [[-0.5], [0.5]]


def test_without_gradients_nothing_is_computed_for_them():
    hidden, weight, _, labels = operands(tokens=8, channels=80, words=20)
    with torch.no_grad(), Recorded() as seen:
        head_cross_entropy(hidden, weight, labels)
    assert seen.largest == 80 * 20
    assert seen.products == 1


def test_no_tokens_at_all_are_torchs_nan():
    hidden, weight, _, labels = operands(tokens=0)
    loss = head_cross_entropy(hidden, weight, labels)
    assert loss.isnan()
    assert [tuple(g.shape) for g in gradients(loss, [hidden, weight])] == [(0, 19), (53, 19)]


def test_strides_do_not_matter():
    hidden, weight, _, labels = operands()
    wide = torch.zeros(37, 40).index_copy(1, torch.arange(0, 38, 2), hidden.detach())
    strided = wide[:, :38:2].detach().requires_grad_()
    turned = weight.detach().T.contiguous().T.requires_grad_()
    assert not strided.is_contiguous()
    assert not turned.is_contiguous()
    twice = labels.repeat_interleave(2)[::2]
    found = gradients(head_cross_entropy(strided, turned, twice, chunk=8), [strided, turned])
    right = gradients(whole(hidden, weight, labels), [hidden, weight])
    for one, other in zip(found, right, strict=True):
        assert torch.allclose(one, other, atol=1e-6)  # 1e-6: float32 sums of 37 and 53


def test_a_tied_weight_gets_both_gradients():
    hidden, weight, _, labels = operands()
    tokens = labels.clamp(min=0)
    found = [
        gradients(loss(functional.embedding(tokens, weight) + hidden, weight, labels), [weight])[0]
        for loss in (head_cross_entropy, whole)
    ]
    assert torch.allclose(*found, atol=1e-6)  # 1e-6: float32 sums of 37 and 53


def test_gradients_accumulate_over_micro_batches_and_a_scale_passes_through():
    hidden, weight, _, labels = operands(tokens=40)
    for rows in (slice(0, 20), slice(20, 40)):
        (1024 * head_cross_entropy(hidden[rows], weight, labels[rows]) / 2).backward()
    halves = [whole(hidden[rows], weight, labels[rows]) for rows in (slice(0, 20), slice(20, 40))]
    right = torch.autograd.grad(1024 * sum(halves) / 2, [hidden, weight])
    assert torch.allclose(hidden.grad, right[0], rtol=1e-4, atol=1e-3)  # 1e-3: a millionth of the scale
    assert torch.allclose(weight.grad, right[1], rtol=1e-4, atol=1e-3)


def test_a_power_of_two_scales_the_gradients_bit_for_bit_under_autocast():
    hidden, weight, _, labels = operands()
    with torch.autocast("cpu", torch.bfloat16):
        one, large = (
            gradients(head_cross_entropy(hidden, weight, labels), [hidden, weight], s) for s in (1.0, 2.0**16)
        )
    assert all(torch.equal(a * 2.0**16, b) for a, b in zip(one, large, strict=True))


def test_without_gradients_it_is_the_same_loss():
    hidden, weight, bias, labels = operands()
    with torch.no_grad():
        quiet = head_cross_entropy(hidden, weight, labels, bias=bias)
    assert not quiet.requires_grad
    assert torch.equal(quiet, head_cross_entropy(hidden, weight, labels, bias=bias))


def test_a_second_derivative_and_a_second_backward_are_refused_in_one_sentence():
    hidden, weight, _, labels = operands()
    loss = head_cross_entropy(hidden, weight, labels)
    with pytest.raises(RuntimeError, match=r"so they have no derivative; take F\.cross_entropy"):
        torch.autograd.grad(loss, weight, create_graph=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="hands its gradients over once"):
        loss.backward()


def test_certain_and_wrong_is_the_logits_distance():
    hidden = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert head_cross_entropy(hidden, torch.eye(2), torch.tensor([1, 0])).item() == 1000.0


@pytest.mark.parametrize("train", [True, False])
def test_no_tensor_is_larger_than_a_chunk_of_logits_or_the_weight(train):
    hidden, weight, _, labels = operands(tokens=256, channels=8, words=96)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(train), Recorded() as seen:
        loss = head_cross_entropy(hidden, weight, labels, chunk=32)
        if train:
            loss.backward()
    assert seen.largest == 32 * 96


def test_only_the_gradient_of_the_hidden_states_is_saved_as_an_activation():
    hidden, weight, _, labels = operands(tokens=64)
    kept = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        loss = head_cross_entropy(hidden, weight, labels)
    assert [(t.dtype, tuple(t.shape)) for t in kept] == [(torch.bfloat16, (64, 19))]
    loss.backward()
    assert hidden.grad.dtype == torch.float32


def test_the_weights_gradient_is_handed_over_and_not_copied():
    hidden, weight, _, labels = operands()
    loss = head_cross_entropy(hidden, weight, labels)
    (kept,) = [t for t in loss.grad_fn.sums if t is not None]
    place = kept.data_ptr()
    del kept
    loss.backward()
    assert weight.grad.data_ptr() == place


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (
            {"hidden": torch.ones(2, 3, 4)},
            ValueError,
            "hidden states [T, D], a weight [V, D] and labels [T], got (2, 3, 4)",
        ),
        ({"weight": torch.ones(5, 3)}, ValueError, "got (2, 4), (5, 3) and (2,)"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ValueError, "(5, 4) and (3,)"),
        ({"labels": torch.zeros(2)}, TypeError, "labels are int64, got torch.float32"),
        ({"bias": torch.ones(4)}, ValueError, "a head's bias is [V], here [5], got (4,)"),
        (
            {"weight": torch.ones(5, 4).double()},
            TypeError,
            "one dtype outside autocast, got torch.float32 and torch.float64",
        ),
        ({"chunk": 0}, ValueError, "chunks of at least one token, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(change, kind, said):
    given = {
        "hidden": torch.ones(2, 4),
        "weight": torch.ones(5, 4),
        "labels": torch.zeros(2, dtype=torch.int64),
    } | change
    with pytest.raises(kind) as error:
        head_cross_entropy(given.pop("hidden"), given.pop("weight"), given.pop("labels"), **given)
    assert said in str(error.value)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo's own look at what a broken graph hands on
def test_a_compiled_caller_breaks_its_graph_and_gets_the_same():
    hidden, weight, _, labels = operands()
    compiled = torch.compile(lambda h: head_cross_entropy(2 * h, weight, labels), backend="eager")
    found, right = compiled(hidden), head_cross_entropy(2 * hidden, weight, labels)
    assert torch.equal(found, right)
    for one, other in zip(gradients(found, [hidden, weight]), gradients(right, [hidden, weight]), strict=True):
        assert torch.equal(one, other)


def test_a_label_outside_of_the_vocabulary_is_an_error_as_in_torch():
    hidden, weight, _, labels = operands()
    labels[1] = 53
    with pytest.raises(RuntimeError, match="index 53 is out of bounds"):
        head_cross_entropy(hidden, weight, labels)
