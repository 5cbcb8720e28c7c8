"""Memory: the most that a process holds while it trains, above what it held after its imports.

Each side in a fresh process, asked in JSON on its command line and answered in JSON on stdout. The first side trains as
PyTorch comes; ours, and one more row of it, keep their CPU tensors as `pennyweight train` does (kernels/arena.py).
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

import torch
from transformers import GPT2LMHeadModel

from pennyweight.experiments.bench.rounds import Built
from pennyweight.experiments.bench.sizes import Sizes
from pennyweight.experiments.bench.steps import BASELINE, PENNY8, PENNY8K8, Shape, config_of, tokens_of
from pennyweight.training.memory import Peak, keep_freed_memory

KEPT = ", freed memory kept"
SIDES: dict[str, Callable[[Shape], Built]] = {
    BASELINE: Shape.autocast,
    BASELINE + KEPT: Shape.autocast,
    PENNY8 + KEPT: Shape.penny8,
    PENNY8K8 + KEPT: Shape.penny8k8,
}


def peak_bytes(side: str, sizes: Sizes, steps: int, threads: int) -> int:
    """The peak resident set, or that of the GPU's allocator, of `steps` training steps of the GPT-2 shape.

    Errors: OSError where the process dies.
    """
    asked = json.dumps({"side": side, "sizes": asdict(sizes), "steps": steps, "threads": threads})
    command = [sys.executable, "-m", "pennyweight.experiments.bench.memory", asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"the process that trains {side} ended with status {done.returncode}: {done.stderr[-300:]}")
    return json.loads(done.stdout)


def measured(asked: dict) -> int:
    """In the fresh process: trains, and says the peak."""
    torch.set_num_threads(asked["threads"])
    sizes = Sizes(**asked["sizes"])
    assert GPT2LMHeadModel is not None  # transformers imports a model on first use; both sides begin with it imported
    peak = Peak(sizes.device)
    if asked["side"].endswith(KEPT) and sizes.device == "cpu":
        keep_freed_memory({"weights": 0, "saved activations": 1})
    built = SIDES[asked["side"]](Shape(config_of("gpt2", sizes), tokens_of(sizes)))
    for _ in range(asked["steps"]):
        built.call()
    return peak.bytes()


if __name__ == "__main__":
    print(measured(json.loads(sys.argv[1])))
