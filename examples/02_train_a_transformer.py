"""Pre-train one small transformer twice, in bf16 and in 8 bits, on the text of Python's own library. A minute or two.

The 8-bit model keeps its moments in 2 bytes a weight instead of 8, and what its layers save in 1 byte a number.
"""

import sys

import pennyweight as pw

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40

for name in ("bf16", "penny8"):
    run = pw.Run.from_dict({"recipe": name, "steps": steps, "batch": 4, "evaluation": {"tokens": 8192, "every": steps}})
    result = pw.train(run, progress=False)
    states = result.memory["states"]["measured"] / 2**20
    print(f"{name:<8} loss {result.initial_loss:.3f} -> {result.val_loss:.3f} nats a token, moments {states:.1f} MiB")
