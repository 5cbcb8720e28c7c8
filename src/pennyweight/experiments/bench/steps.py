"""Steps: a whole training step of a GPT-2 and of a Llama shape, as each side trains it.

Everywhere: the same weights and tokens, dropout 0, scaled_dot_product_attention, the norm of the gradient cut to 1.0
exactly, gradients given back after the step. The others step with torch's fused AdamW.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pennyweight.experiments.bench import torchao_peer
from pennyweight.experiments.bench.rounds import Built, Question, Side
from pennyweight.experiments.bench.sizes import Sizes
from pennyweight.nn import compile_blocks, quantize
from pennyweight.recipes import recipe as named
from pennyweight.recipes.precision import precise
from pennyweight.training import Optimizer, Run
from pennyweight.training.freed import Freed
from pennyweight.training.gradient import Gradient
from pennyweight.training.models import from_config
from pennyweight.training.objectives import NextToken
from pennyweight.training.state import build_optimizer

CLIP, NUMBERS = 1.0, Optimizer(lr=3e-4)  # of every side's AdamW
BASELINE, PENNY8, PENNY8K8 = "bf16 autocast", "penny8", "penny8k8"


def config_of(shape: str, sizes: Sizes) -> PreTrainedConfig:
    """The config of a "gpt2" or a "llama" shape; both hold about as many parameters."""
    written: dict[str, Any] = {"vocab_size": sizes.vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    if shape == "gpt2":
        written |= {"n_layer": sizes.depth, "n_embd": sizes.width, "n_head": sizes.heads, "n_positions": sizes.context}
        written |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    else:
        written |= {"num_hidden_layers": sizes.depth, "hidden_size": sizes.width, "num_attention_heads": sizes.heads}
        written |= {"intermediate_size": sizes.width * 8 // 3, "max_position_embeddings": sizes.context}
        written |= {"tie_word_embeddings": True}
    return CONFIG_MAPPING[shape].from_dict({**written, "attn_implementation": "sdpa"})


def steps(shape: str, sizes: Sizes) -> list[Question]:
    """Without compilers: bf16 autocast first, then the others."""
    make = Shape(config_of(shape, sizes), tokens_of(sizes))
    absent = torchao_peer.missing()
    sides = (
        Side(BASELINE, make.autocast),
        Side("fp32", make.fp32),
        Side("pure bf16", make.bf16),
        Side("torchao int8 training, pure bf16", make.torchao, missing=absent),
        Side(PENNY8, make.penny8),
        Side(PENNY8K8, make.penny8k8),
        Side("w8a8g8, own AdamW on fp32 moments", partial(make.ours, "w8a8g8")),
        Side("w8a8g8 layers alone: stock head and all between, torch's fused AdamW", make.products_alone),
    )
    return [Question(shape, _what(sizes), sides, float(sizes.tokens), "tokens")]


def compiled(sizes: Sizes) -> list[Question]:
    """What torch.compile makes of the steps, for the GPT-2 shape; their compilation takes minutes the first time."""
    make = Shape(config_of("gpt2", sizes), tokens_of(sizes))
    absent = torchao_peer.missing()
    sides = (
        Side(BASELINE, make.autocast),
        Side("bf16 autocast, torch.compile", partial(make.autocast, compile=True)),
        Side("pure bf16, torch.compile", partial(make.bf16, compile=True)),
        Side("torchao int8 training, pure bf16, torch.compile", partial(make.torchao, compile=True), missing=absent),
        Side("penny8, not compiled", make.penny8),
        Side("penny8, torch.compile", partial(make.penny8, compile=True)),
    )
    return [Question("compiled", f"gpt2, {_what(sizes)}", sides, float(sizes.tokens), "tokens")]


def _what(sizes: Sizes) -> str:
    shape = f"{sizes.depth} x {sizes.width}, vocabulary {sizes.vocabulary}"
    return f"{shape}, {sizes.batch} x {sizes.context} tokens"


def tokens_of(sizes: Sizes) -> Tensor:
    """Random tokens [batch, context + 1], always the same, on the sizes' device."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, sizes.vocabulary, (sizes.batch, sizes.context + 1), generator=generator).to(sizes.device)


@dataclass(frozen=True)
class StockHead:
    """The loss as anybody writes it: all logits in float32, then torch's cross entropy."""

    def __call__(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """tokens (batch, context + 1) int64 -> a float32 scalar."""
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


@dataclass(frozen=True)
class Shape:
    """A config and a batch of tokens [batch, context + 1]; each method builds one side. A call returns the loss."""

    config: PreTrainedConfig
    tokens: Tensor

    def model(self) -> PreTrainedModel:
        """In float32, always the same weights, beside the tokens."""
        model: nn.Module = from_config(self.config, seed=0)
        return model.to(self.tokens.device).train()  # type: ignore[return-value]  # `to` gives the model itself

    def fp32(self) -> Built:
        """Plain PyTorch."""
        return self.theirs(self.model(), "fp32")

    def autocast(self, *, compile: bool = False) -> Built:  # noqa: A002 (torch's word)
        """fp32 weights, bf16 products."""
        return self.theirs(self.model(), "bf16", compile=compile)

    def bf16(self, *, compile: bool = False) -> Built:  # noqa: A002
        """Everything in bf16, the moments too."""
        return self.theirs(self.model().bfloat16(), "fp32", compile=compile)

    def torchao(self, *, compile: bool = False) -> Built:  # noqa: A002
        """int8 products on bf16 weights, as torchao's documentation and benchmark train; the head stays in bf16."""
        model = self.model().bfloat16()
        blocks = model.base_model
        use_linear(blocks)
        count = torchao_peer.convert(blocks)
        built = self.theirs(model, "fp32", compile=compile)
        return Built(built.call, f"{count} linear layers converted")

    def theirs(self, model: nn.Module, precision: str, *, compile: bool = False) -> Built:  # noqa: A002
        """A training loop in plain PyTorch."""
        parameters = list(model.parameters())
        optimizer = _fused(model)
        objective = StockHead()

        def forward() -> Tensor:
            with precise(precision, self.tokens.device.type):
                return objective(model, self.tokens)

        loss_of: Callable[[], Tensor] = torch.compile(forward) if compile else forward

        def call() -> Tensor:
            loss = loss_of()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        return Built(call)

    def penny8(self, *, compile: bool = False) -> Built:  # noqa: A002
        """As `pennyweight train --recipe penny8` steps; `compile`: with compile=true."""
        return self.ours(PENNY8, compile=compile)

    def penny8k8(self) -> Built:
        """The same, with all else that is saved in 8 bits."""
        return self.ours(PENNY8K8)

    def lean(self, recipe: str = PENNY8) -> Built:
        """As a run steps with gradients=freed and clip_by=previous."""
        model = self.model()
        conversion = quantize(model, recipe)
        optimizer = build_optimizer(Run(recipe=named(recipe), optimizer=NUMBERS), model, conversion)
        objective = NextToken()
        gradient = Freed(
            model=model,
            objective=objective,
            precision="bf16",
            clip=CLIP,
            batches=[self.tokens],
            check=lambda *_, **__: None,
            optimizer=optimizer,
            counter=conversion.counter,
        )

        def call() -> Tensor:
            loss = optimizer.step(gradient)
            gradient.previous = gradient.norm
            return loss

        return Built(call, f"{len(conversion.converted)} linear layers converted")

    def products_alone(self) -> Built:
        """What the int8 layers gain by themselves."""
        return self.ours("w8a8g8", stock=True)

    def ours(self, recipe: str, *, stock: bool = False, compile: bool = False) -> Built:  # noqa: A002
        """A recipe as `pennyweight train` steps it; `stock`: the others' head, optimizer and all between the layers."""
        model = self.model()
        conversion = quantize(model, recipe, layers_only=stock)
        if compile:
            compile_blocks(model)
        optimizer: torch.optim.Optimizer
        if stock:
            optimizer = _fused(model)
        else:
            optimizer = build_optimizer(Run(recipe=named(recipe), optimizer=NUMBERS), model, conversion)
        gradient = Gradient(
            model=model,
            objective=StockHead() if stock else NextToken(),
            precision="bf16",
            clip=CLIP,
            batches=[self.tokens],
            check=lambda loss, norm: None,
        )

        def call() -> Tensor:
            loss = gradient()
            optimizer.step()
            gradient.clear()
            return loss

        return Built(call, f"{len(conversion.converted)} linear layers converted")


def _fused(model: nn.Module) -> torch.optim.Optimizer:
    """torch's fused AdamW, with the numbers of ours."""
    n = NUMBERS
    parameters = model.parameters()
    return torch.optim.AdamW(parameters, n.lr, n.betas, n.eps, n.weight_decay, fused=True)


def use_linear(model: nn.Module) -> int:
    """Turns every transformers Conv1D below `model` into the nn.Linear that computes the same; says how many."""
    found = [(module, name, one) for module in model.modules() for name, one in module.named_children()]
    layers = [(parent, name, one) for parent, name, one in found if isinstance(one, Conv1D)]
    for parent, name, one in layers:
        linear = nn.Linear(one.nx, one.nf, device=one.weight.device, dtype=one.weight.dtype)
        linear.weight = nn.Parameter(one.weight.detach().T.contiguous())
        linear.bias = one.bias
        setattr(parent, name, linear)
    return len(layers)
