"""Quantized pre-training: what training a transformer with few-bit tensors costs, tensor by tensor.

Ancestor: Chitsaz, Fournier, Mordido, Chandar, "Exploring Quantization for Efficient Pre-Training of Transformer
Language Models", arXiv:2407.11722. The claims and where each was read: docs/methods/quantized-pretraining.md and
docs/methods/optimizer-states.md.
"""

import json
from dataclasses import replace

from pennyweight.experiments.studies import quantized_claims as judges
from pennyweight.experiments.studies.afterwards import afterwards
from pennyweight.experiments.studies.study import Arm, Claim, Part, Scale, Study
from pennyweight.numerics import cast
from pennyweight.recipes import Recipe, recipe
from pennyweight.recipes.linear import LinearCasts, Product
from pennyweight.training import Checkpoint, Config, Data, Diagnosis, Evaluation, Optimizer, Run, Schedule

PAPER = "arXiv:2407.11722"
CODE = f"published code of {PAPER}"
SUMMARY = f"summaries of {PAPER}; the passage itself was not at hand"
STATES = "docs/methods/optimizer-states.md"
OURS = "this project"

# 590 k parameters beside the embeddings. gelu_pytorch_tanh is GPT-2's own activation function in one operator.
MODEL = "gpt2-3x128"
SHAPE = {
    "model_type": "gpt2", "n_layer": 3, "n_embd": 128, "n_head": 2, "n_positions": 128, "vocab_size": 1024,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "activation_function": "gelu_pytorch_tanh",
}  # fmt: skip
NOT_LOOKED_AT = Diagnosis(every=0, fidelity_every=0)
AGAIN = 1000  # what the A/A arm adds to every seed
SCALES = {
    "quick": Scale("quick", steps=512, least_steps=256, least_seeds=3, minutes=30),
    "full": Scale("full", steps=512, least_steps=256, least_seeds=3, minutes=75),
}


def base(data: str, steps: int) -> Run:
    """The bf16 baseline: 1,024 tokens a step of a GPT-2 with three blocks, 128 wide."""
    return Run(
        model=MODEL, data=Data(source=data, tokenizer="bpe-1024", context=128), optimizer=Optimizer(lr=3e-3),
        schedule=Schedule(final=0.0), steps=steps, batch=8, evaluation=Evaluation(every=steps, tokens=65536),
        checkpoint=Checkpoint(every=max(1, steps // 2), keep=1), diagnosis=NOT_LOOKED_AT, tracker="none",
        config=Config(of=MODEL, says=json.dumps(SHAPE)),
    )  # fmt: skip


def parts(run: Run, scale: str) -> tuple[Part, ...]:
    """What is trained: everything at beta2 = 0.95, and in the full study what moments decide at 0.999 too."""
    quick = scale == "quick"
    arms = _arms(run) if quick else (*_arms(run), *_backwards(run))
    first = Part("beta2 = 0.95", arms, seeds=3 if quick else 6)
    if quick:
        return (first,)
    slow = replace(run, optimizer=replace(run.optimizer, betas=(0.9, 0.999)))
    kept = ("bf16", "bf16 again", "int2", "w8", "w4", "a8", "g8", "m8", "m4", "v8 linear", "v8 log", "v4 log", "w8a8g8")
    chosen = tuple(arm for arm in _arms(slow) if arm.name in kept)
    return first, Part("beta2 = 0.999", chosen, seeds=3)


def _arms(run: Run) -> tuple[Arm, ...]:
    """The arms, controls first, then what most claims rest on."""
    every = max(1, run.steps // 4)
    seen = Diagnosis(every=every, fidelity_every=0)
    told = Diagnosis(every=every, fidelity_every=every)
    sharp = Diagnosis(every=0, fidelity_every=0, sharpness_every=max(1, run.steps // 8))
    both = replace(seen, sharpness_every=sharp.sharpness_every)

    def arm(name: str, written: Recipe | str, diagnosis: Diagnosis = NOT_LOOKED_AT, cost: float = 1.2) -> Arm:
        return Arm(name, replace(run, recipe=recipe(written), diagnosis=diagnosis), cost=cost)

    return (
        arm("bf16", "bf16", sharp, 1.25),
        Arm("bf16 again", run, shift=AGAIN),
        arm("int2", "w2a2-control", cost=1.4),
        arm("w8", "paper-w8"), arm("w8 tensor", "paper-w8t"),
        arm("w4", "paper-w4", both), arm("w4 tensor", "paper-w4t"),
        arm("a8", "paper-a8"), arm("a8 tensor", "paper-a8t"),
        arm("a4", "paper-a4", both), arm("a4 tensor", "paper-a4t", seen), arm("a4 channel", "paper-a4c", seen),
        arm("g8", "paper-g8", told), arm("g4", "paper-g4", told),
        arm("g4 stochastic", _stochastic("paper-g4", "int4/column"), told),
        arm("g8 without head", _headless("paper-g8"), told), arm("g8 tensor", "paper-g8t"),
        arm("m8", "paper-m8"), arm("m4", "paper-m4"),
        arm("v8 linear", "paper-v8"), arm("v8 log", "v8"), arm("v4 log", "v4"),
        arm("w8a8", "paper-w8a8", seen, 1.5), arm("w8a8g8", "paper-w8a8g8", cost=1.75),
        arm("w8a8g8 real", "w8a8g8", cost=0.7),
    )  # fmt: skip


def _backwards(run: Run) -> tuple[Arm, ...]:
    """4-bit forward passes whose gradient products read the operands unwritten, as the forward wrote them, and anew."""
    rows = cast("int4/row")
    forward = Product(rows, rows)
    ways = {
        "original": LinearCasts(forward, backward="original", way="emulated"),
        "forward": LinearCasts(forward, backward="forward", way="emulated"),
        "requantized": LinearCasts(
            forward, Product(None, rows), Product(None, rows), backward="requantized", way="emulated"
        ),
    }
    made = {name: Recipe(f"w4a4 {name}", casts, head=True) for name, casts in ways.items()}
    return tuple(Arm(one.name, replace(run, recipe=one), cost=1.6) for one in made.values())


def _stochastic(name: str, written: str) -> Recipe:
    """A paper recipe whose G in grad_weight is rounded stochastically, which the published arithmetic has not."""
    made = recipe(name)
    assert made.linear is not None
    linear = replace(made.linear, grad_weight=Product(cast(f"{written}/stochastic")))
    return replace(made, name=f"{name}-stochastic", linear=linear)


def _headless(name: str) -> Recipe:
    """A paper recipe that leaves the head plain."""
    return replace(recipe(name), name=f"{name}-headless", head=False)


CLAIMS = (
    Claim(
        "w8-channel",
        "8-bit weights, one scale a channel, train as well as bf16",
        f"{PAPER}, p. 4",
        judges.as_good("w8"),
    ),
    Claim(
        "w8-tensor", "8-bit weights, one scale a tensor, are competitive", f"{PAPER}, p. 4", judges.as_good("w8 tensor")
    ),
    Claim("w4-channel", "4-bit weights, one scale a channel, cost quality", f"{PAPER}, p. 1", judges.costs("w4")),
    Claim("w4-tensor", "4-bit weights, one scale a tensor, cost quality", f"{PAPER}, p. 1", judges.costs("w4 tensor")),
    Claim(
        "w4-granularity",
        "At 4 bits one scale a tensor costs more than one a channel",
        f"{PAPER}, p. 5",
        judges.dearer("w4 tensor", "w4"),
    ),
    Claim("a8-token", "8-bit activations, one scale a token, train as well as bf16", SUMMARY, judges.as_good("a8")),
    Claim(
        "a8-tensor",
        "8-bit activations, one scale a tensor, train as well as bf16",
        SUMMARY,
        judges.as_good("a8 tensor"),
    ),
    Claim(
        "a4",
        "4-bit activations, one scale a token or a tensor, cost quality",
        f"{PAPER}, p. 1",
        judges.costs("a4", "a4 tensor"),
    ),
    Claim(
        "a4-diverges",
        "4-bit activations, one scale a token or a tensor, diverge",
        CODE,
        judges.diverge("a4", "a4 tensor"),
    ),
    Claim("a4-outliers", "4-bit activations fail because of outlier channels", SUMMARY, judges.outliers),
    Claim("g8", "8-bit gradients, one scale a token, cost quality", f"{PAPER}, p. 1", judges.costs("g8")),
    Claim(
        "g8-tensor", "8-bit gradients, one scale a tensor, cost quality", f"{PAPER}, p. 1", judges.costs("g8 tensor")
    ),
    Claim(
        "g8-head", "What 8-bit gradients cost is lost in the head, where G is softmax less one-hot", OURS, judges.head
    ),
    Claim("g4", "4-bit gradients cost quality", f"{PAPER}, p. 1", judges.costs("g4")),
    Claim("g-sparsity", "Few-bit gradients suffer from the sparsity of G", SUMMARY, judges.sparsity),
    Claim("m8", "Adam's m takes 8 bits, linear, one scale a row", SUMMARY, judges.as_good("m8")),
    Claim(
        "m4",
        "Adam's m in 4 bits, linear, nearest, one scale a row, costs quality",
        f"{STATES}, section 15",
        judges.costs("m4"),
    ),
    Claim(
        "v-linear",
        "Adam's v fails in a linear code with a zero, at 8 bits",
        f"{STATES}, section 10",
        judges.costs("v8 linear"),
    ),
    Claim(
        "v-log8", "Adam's v takes 8 bits of a code without a zero", f"{STATES}, section 15", judges.as_good("v8 log")
    ),
    Claim(
        "v-log4", "Adam's v takes 4 bits of a code without a zero", f"{STATES}, section 15", judges.as_good("v4 log")
    ),
    Claim("w8a8", "8-bit weights and activations train as well as bf16", SUMMARY, judges.as_good("w8a8")),
    Claim(
        "w8a8g8",
        "8-bit weights, activations and gradients, backward as published, train as well as bf16",
        f"the largest recipe of {PAPER}",
        judges.as_good("w8a8g8"),
    ),
    Claim(
        "w8a8g8-real",
        "All three products in 8 bits, head plain, train as well as bf16",
        OURS,
        judges.as_good("w8a8g8 real"),
    ),
    Claim("sharpness", "4-bit weights and activations end in sharper minima", SUMMARY, judges.sharper("w4", "a4")),
    Claim(
        "post-training-8",
        "Rounding a trained bf16 model's weights to 8 bits costs nothing",
        f"{PAPER}, p. 14",
        judges.rounded("paper-w8"),
    ),
    Claim(
        "post-training-4",
        "Training with 4-bit weights ends lower than rounding to 4 bits afterwards",
        f"{PAPER}, p. 14",
        judges.beats_rounding({"w4": "paper-w4", "w4 tensor": "paper-w4t"}),
    ),
    Claim("depth", "The error of written products grows with depth", f"notes in the {CODE}", judges.depth("w8a8")),
    Claim(
        "backward",
        "Gradients of the unwritten operands, as published, train better than those of the written ones",
        OURS,
        judges.cheaper("w4a4 original", "w4a4 forward", "w4a4 requantized"),
    ),
)

STUDY = Study(
    name="quantized-pretraining",
    title="Quantized pre-training, measured again",
    source=f"Chitsaz, Fournier, Mordido, Chandar 2024, {PAPER}",
    scales=SCALES,
    base=base,
    parts=parts,
    claims=CLAIMS,
    controls=(
        Claim("same", "bf16 from other seeds is not found different from bf16", "A/A", judges.same("bf16 again")),
        Claim("planted", "2-bit weights and activations are found worse than bf16", "planted", judges.costs("int2")),
    ),
    after=afterwards,
)
