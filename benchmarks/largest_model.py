"""The largest GPT-2 that trains in a fixed memory: bf16 autocast with torch's fused AdamW against penny8.

1 x 512 tokens a step, vocabulary 8,192; the model grows in depth at width 768, or in width at 12 layers with heads of
64. Each try is a fresh process that imports everything, sets RLIMIT_DATA to what it has then plus the limit, builds the
model and takes the steps: all that it may write to (heap, tensors, threads' stacks) must fit, or the system refuses it
and the try has failed. So the peak is held, not only measured; the peak resident set above the idle import is shown
beside it. The largest size that trains is searched for by halving, from the sizes around it.

    python benchmarks/largest_model.py [--grow depth|width] [--gib 4] [--steps 4] [--goal 2.5] [--side NAME ...]
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel

from pennyweight.experiments.bench.rounds import Built
from pennyweight.experiments.bench.sizes import Sizes
from pennyweight.experiments.bench.steps import BASELINE, PENNY8, Shape, config_of, tokens_of
from pennyweight.training.machine import commit, machine, versions
from pennyweight.training.memory import Peak, keep_freed_memory

LEAN, KEPT, NOMASTER = (f"{name}, gradients freed" for name in (PENNY8, "penny8k8", "penny8-nomaster"))
SIDES: dict[str, Callable[[Shape], Built]] = {
    BASELINE: Shape.autocast,
    PENNY8: Shape.penny8,
    LEAN: Shape.lean,
    KEPT: lambda shape: shape.lean("penny8k8"),
    NOMASTER: lambda shape: shape.lean("penny8-nomaster"),
}
CONTEXT, VOCABULARY = 512, 8192


def sizes(grow: str, size: int) -> Sizes:
    """The shape of one size: so many layers of 768, or 12 layers of so many times 64."""
    layers, width = (size, 768) if grow == "depth" else (12, 64 * size)
    return Sizes(
        depth=layers, width=width, heads=width // 64, vocabulary=VOCABULARY, batch=1, context=CONTEXT, layers=()
    )


def parameters(shape: Sizes) -> int:
    """Of a GPT-2 with a tied head."""
    wide = shape.width
    return shape.depth * (12 * wide**2 + 13 * wide) + (shape.vocabulary + shape.context + 2) * wide


def written_bytes() -> int:
    """What this process may write to and shares with nobody: what RLIMIT_DATA counts."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData"):
            return int(line.split()[1]) * 1024
    raise OSError("this benchmark reads /proc/self/status, which only Linux has")


def tried(side: str, grow: str, size: int, limit: int, steps: int) -> dict[str, object]:
    """In the fresh process: trains within the limit; raises RuntimeError or MemoryError where the system refuses."""
    assert GPT2LMHeadModel is not None  # transformers imports a model on first use
    shape = sizes(grow, size)
    keep_freed_memory({"weights": 1, "saved activations": 0})  # as `pennyweight train` does for such shapes; both sides
    resource.setrlimit(resource.RLIMIT_DATA, (written_bytes() + limit, resource.RLIM_INFINITY))
    peak = Peak("cpu")
    built = SIDES[side](Shape(config_of("gpt2", shape), tokens_of(shape)))
    losses = [torch.as_tensor(built.call()).item() for _ in range(steps)]
    return {"losses": losses, "peak": peak.bytes(), "parameters": parameters(shape)}


def trains(side: str, size: int, chosen: argparse.Namespace) -> dict | None:
    """What a fresh process came to; None where the memory was too small. Errors: OSError for another failure."""
    asked = json.dumps([side, chosen.grow, size, int(chosen.gib * 2**30), chosen.steps])
    command = [sys.executable, __file__, "--try", asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        found = json.loads(done.stdout)
        print(f"{side}: {size} trains, {found['peak'] / 2**30:.2f} GiB", file=sys.stderr)
        return found
    refused = ("can't allocate memory", "MemoryError", "Cannot allocate memory", "bad_alloc", "out of memory")
    if not any(sentence in done.stderr for sentence in refused):
        raise OSError(f"the process that trains {side} at size {size} failed: {done.stderr[-600:]}")
    print(f"{side}: {size} does not", file=sys.stderr)
    return None


def largest(answer: Callable[[int], dict | None], guess: int) -> tuple[int, dict]:
    """The largest size that trains, and what it came to; sizes around `guess` are tried first."""
    good, bad, found, step = 0, None, {}, max(1, guess // 8)
    size = guess
    while bad is None or bad - good > 1:
        if (told := answer(size)) is None:
            bad = size
        else:
            good, found = size, told
        if bad is None:
            size = good + step
        elif good == 0:
            size = max(1, bad - step)
            if bad == 1:
                raise ValueError("not even the smallest model trains in this memory")
        else:
            size = (good + bad) // 2
        step *= 2
    return good, found


def report(rows: dict[str, tuple[int, dict]], chosen: argparse.Namespace) -> int:
    """The table on stdout; 1 when ours is not so many times as large as the baseline."""
    there, kept = machine(), versions()
    grows = "layers of 768" if chosen.grow == "depth" else "times 64 wide, 12 layers"
    first = next(iter(rows.values()))[1]["parameters"]
    print(f"Largest GPT-2 shape that trains in {chosen.gib:g} GiB above an idle import (RLIMIT_DATA): {chosen.steps}")
    print(
        f"steps of 1 x {CONTEXT} tokens, vocabulary {VOCABULARY:,}; {there['processor']}, {there['cores']} cores, torch"
    )
    print(f"{kept['torch']}, commit {commit()}\n")
    print(f"| training | {grows} | parameters | ratio | bytes a parameter | peak resident set | loss, first and last |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for side, (size, found) in rows.items():
        count = found["parameters"]
        losses = f"{found['losses'][0]:.3f}, {found['losses'][-1]:.3f}"
        print(
            f"| {side} | {size} | {count / 1e6:,.0f} M | {count / first:.2f} | {found['peak'] / count:.1f} "
            f"| {found['peak'] / 2**30:.2f} GiB | {losses} |"
        )
    best = max(found["parameters"] for _, found in rows.values()) / first
    print(
        f"\nThe goal of {chosen.goal:g} times as many parameters is {'reached' if best >= chosen.goal else 'missed'}."
    )
    return 0 if best >= chosen.goal else 1


def main() -> int:
    """Prints the Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--grow", choices=("depth", "width"), default="depth")
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--goal", type=float, default=2.5)
    parser.add_argument("--side", choices=tuple(SIDES), nargs="+", default=list(SIDES))
    parser.add_argument("--try", dest="attempt", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.attempt:
        torch.manual_seed(0)
        print(json.dumps(tried(*json.loads(chosen.attempt))))
        return 0
    # Near the answers, so that few sizes are tried.
    depths, widths = (32, 56, 72, 80, 100), (20, 26, 31, 32, 40)
    guesses = dict(zip(SIDES, depths if chosen.grow == "depth" else widths, strict=True))
    rows = {
        side: largest(partial(trains, side, chosen=chosen), max(1, round(guesses[side] * chosen.gib / 4)))
        for side in chosen.side
    }
    return report(rows, chosen)


if __name__ == "__main__":
    sys.exit(main())
