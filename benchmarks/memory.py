"""Peak training memory: bf16 autocast with torch's AdamW against penny8, each in a fresh process.

A GPT-2 of 12 layers, 768 wide, vocabulary 8,192, 1 x 128 tokens a step, the same batches, clipping and evaluation on
both sides; 20 real steps. The figure is the peak resident set less that of a process that only imports what both do.

    python benchmarks/memory.py [--recipe penny8] [--steps 20] [--limit 0.7]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from pennyweight.data import Sampler, prepare, validation_batches
from pennyweight.training import Checkpoint, Data, Evaluation, Optimizer, Run, Schedule, build_model, train
from pennyweight.training.machine import machine, versions

VOCABULARY, CONTEXT, EVALUATION_TOKENS = 8192, 128, 1024
SIDES = ("idle", "baseline", "ours")


def peak_bytes() -> int:
    """The most this process has ever held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("this benchmark reads /proc/self/status, which only Linux has")


def described(folder: Path, recipe: str, steps: int) -> Run:
    """The run both sides follow."""
    config = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": CONTEXT}
    config |= {"vocab_size": VOCABULARY, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return Run(
        model=str(path),
        recipe=recipe,
        data=Data(tokenizer=f"bpe-{VOCABULARY}", context=CONTEXT),
        optimizer=Optimizer(lr=3e-4),
        schedule=Schedule("constant", warmup=0.0),
        batch=1,
        steps=steps,
        evaluation=Evaluation(every=10, tokens=EVALUATION_TOKENS),
        checkpoint=Checkpoint(),
    )


def baseline(run: Run) -> float:
    """The plain PyTorch loop: bf16 autocast, torch.optim.AdamW, gradients set to None; returns the validation loss."""
    corpus = prepare(run.data.source, tokenizer=run.data.tokenizer, validation=run.data.validation)
    model = build_model(run.model, vocab_size=corpus.vocab_size, context=CONTEXT, seed=run.seed, end=0)
    assert type(model) is GPT2LMHeadModel
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=run.optimizer.lr, betas=run.optimizer.betas)
    sampler = Sampler(corpus.train, context=CONTEXT, batch=run.batch, seed=run.seed)

    def loss_of(tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    def evaluate() -> float:
        batches = list(validation_batches(corpus.valid, CONTEXT, run.batch, EVALUATION_TOKENS))
        with torch.no_grad():
            return sum(loss_of(batch).item() for batch in batches) / len(batches)

    value = evaluate()
    for step in range(run.steps):
        loss_of(sampler.next()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.clip or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % run.evaluation.every == 0:
            value = evaluate()
    return value


def measure(side: str, run: Run) -> dict[str, object]:
    """What one fresh process came to: peak bytes, validation loss, and our table by category."""
    answer: dict[str, object] = {}
    if side == "baseline":
        answer["loss"] = baseline(run)
    elif side == "ours":
        result = train(run, progress=False)
        answer |= {"loss": result.val_loss, "memory": result.memory, "reported": result.peak_memory_bytes}
    else:
        assert AutoModelForCausalLM is not None  # the same imports, and nothing done with them
    return {**answer, "peak": peak_bytes()}


def main() -> int:
    """Prints the Markdown table; 1 when the ratio is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", default="penny8")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=float, default=0.7)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = described(Path(folder), chosen.recipe, chosen.steps)
        if chosen.side:
            print(json.dumps(measure(chosen.side, run)))
            return 0
        prepare(run.data.source, tokenizer=run.data.tokenizer, validation=run.data.validation)
    found = {}
    for side in SIDES:
        command = [sys.executable, __file__, "--side", side, "--recipe", chosen.recipe, "--steps", str(chosen.steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[side] = json.loads(done.stdout.splitlines()[-1])
    return report(found, chosen.recipe, chosen.limit)


def report(found: dict[str, dict], recipe: str, limit: float) -> int:
    """The table on stdout."""
    idle = found["idle"]["peak"]
    peaks = {side: found[side]["peak"] - idle for side in ("baseline", "ours")}
    ratio = peaks["ours"] / peaks["baseline"]
    there = machine()
    print(f"12 layers, 768 wide, vocabulary {VOCABULARY}, 1 x {CONTEXT} tokens; {there['processor']},")
    print(f"{there['cores']} cores, {there['threads']} threads, torch {versions()['torch']}\n")
    print("| training | peak resident set less an idle import | ratio | validation loss |")
    print("|---|---:|---:|---:|")
    for name, side, share in (("bf16 autocast, torch.optim.AdamW", "baseline", 1.0), (recipe, "ours", ratio)):
        print(f"| {name} | {peaks[side] / 1e6:,.0f} MB | {share:.3f} | {found[side]['loss']:.3f} |")
    print(f"\n| {recipe}, by category | predicted | measured |\n|---|---:|---:|")
    for category, sizes in found["ours"]["memory"].items():
        print(f"| {category} | {sizes['predicted'] / 1e6:,.1f} MB | {sizes['measured'] / 1e6:,.1f} MB |")
    print(f"\nIdle import: {idle / 1e6:,.0f} MB. The ratio {'holds' if ratio <= limit else 'misses'} {limit}.")
    return 0 if ratio <= limit else 1


if __name__ == "__main__":
    sys.exit(main())
