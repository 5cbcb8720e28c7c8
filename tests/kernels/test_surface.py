"""The functions of pennyweight.kernels work as the first thing that a process does, or say what they lack."""

import subprocess
import sys

import pytest

from pennyweight.kernels import compiled, has_attention
from pennyweight.kernels.compiled import operators

CALLS = {
    "activation": "activation(x, 'silu')",
    "activation_saving": "activation_saving(x, 'silu')",
    "attention": "attention(q, q, q, causal=True, scale=0.1)",
    "attention_backward": "attention_backward(q.transpose(1, 2), q, q, q, q.transpose(1, 2).contiguous(),"
    " torch.zeros(2, 1, 2, 8), causal=True, scale=0.1)",
    "int8_linear": "int8_linear(c, s, w, None, turned=False, dtype=x.dtype)",
    "int8_linear_backward": "int8_linear_backward(torch.ones(8, 16), c, s, w, turned=False, dtype=x.dtype)",
    "written_linear": "written_linear(x, c, s, w, None, turned=False, folded=True, dtype=x.dtype)",
    "write_rows": "write_rows(x)",
    "squares": "squares([x])",
}
FIRST = """
import torch
from pennyweight.kernels import {name}
x, w, q = torch.randn(8, 32), torch.randn(16, 32), torch.randn(1, 2, 8, 64).bfloat16()
c, s = x.to(torch.int8), torch.ones(8, 1)
{call}
"""


@pytest.mark.long
@pytest.mark.skipif(operators() is None, reason="the C++ kernels cannot be compiled here")
@pytest.mark.parametrize("name", CALLS)
def test_it_works_as_the_first_call_of_a_process(name: str) -> None:
    if name.startswith("attention") and not has_attention():
        pytest.skip("no compiled attention on this machine")
    command = [sys.executable, "-W", "error", "-c", FIRST.format(name=name, call=CALLS[name])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("write_rows", "squares")])
def test_without_the_kernels_it_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "missing", lambda: "hidden by a test")
    with pytest.raises(RuntimeError, match="^.* compiled operators, which are not here: hidden by a test$"):
        exec(FIRST.format(name=name, call=CALLS[name]), {})
