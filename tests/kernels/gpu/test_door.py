"""The door to the GPU's kernels says why it is shut, and costs a CPU nothing."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from pennyweight.kernels import doctor, operators
from pennyweight.kernels.gpu import door

LAYER = """
import sys, torch
from torch import nn
from pennyweight.nn import quantize
from pennyweight.optim import AdamW
model = nn.Sequential(nn.Linear(64, 64))
quantize(model, "penny8")
optimizer = AdamW(model.parameters(), m="int8/block128", v="log8/block256", min_numel=0)
model(torch.randn(8, 64)).sum().backward()
optimizer.step()
print([name for name in sys.modules if name.startswith("pennyweight.kernels.gpu.")])
"""
COMPILED = """
import re, torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from pennyweight.kernels.gpu import adamw, columns, product, rows

def ptx(kernel, types, constants, **options):
    constant = dict(constants)
    names = iter(types.split())
    signature = {name: "constexpr" if name in constant else next(names) for name in kernel.arg_names}
    wide = [i for i, kind in enumerate(signature.values()) if kind[0] == "*" or kind == "i32"]
    aligned = {(i,): [["tt.divisibility", 16]] for i in wide}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constant, attrs=aligned)
    return compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]

exact = {"enable_fp_fusion": False}
for limit, kind in ((127.0, "i8"), (448.0, "fp8e4nv"), (57344.0, "fp8e5")):
    shape = dict(FOLDED=True, LIMIT=limit, WIDTH=1024, FITS=limit != 448.0)
    text = ptx(rows._rows_kernel, f"*bf16 *fp32 *{kind} *fp32 i32 i32", shape, **exact)
    assert "div.rn.f32" in text and "div.full" not in text and "fma.rn.f32" not in text.split("div.rn")[0], kind
tile = dict(FOLDED=True, STRIP=128, TALL=32, WIDE=128)
ptx(columns._measure_kernel, "*bf16 *fp32 *i32 *fp32 i32 i32 i32", tile, **exact)
ptx(columns._finish_kernel, "*i32 *fp32 *fp32 *fp32 i32 i32", dict(WIDE=128), **exact)
ptx(columns._codes_kernel, "*bf16 *fp32 *fp32 *i8 i32 i32 i32", dict(FOLDED=True, TURNED=True, EDGE=64), **exact)
ptx(columns._turn_kernel, "*i8 *i8 i32 i32", dict(EDGE=64))
for bm, bn, bk, warps, stages in product.TILES:
    shape = dict(ROW=True, COLUMN=True, BIAS=True, EVEN=True, BM=bm, BN=bn, BK=bk, GROUP=product.GROUP)
    types, how = "*i8 *i8 *fp32 *fp32 *fp32 *bf16 i32 i32 i32", dict(num_warps=warps, num_stages=stages)
    text = ptx(product._product_kernel, types, shape, **how, **exact)
    assert re.search(r"wgmma.mma_async\\S*s32.s8.s8", text), (bm, bn, bk)
shape = dict(UNITS=4, RATIO=2, SMALL=128, M_SMALL=True, V_SMALL=False, M_NOISE=True, V_NOISE=True, OCTAVES=40.0)
types = "*fp32 *bf16 *i8 *fp32 *u8 *fp32 *fp32 i32" + 7 * " fp32" + 4 * " i32" + " i64"
ptx(adamw._adamw_kernel, types, shape, **exact)
print("compiled")
"""


def said(code: str, **environment: str) -> str:
    """What a process of its own prints."""
    settings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_cpu_has_no_operators_of_a_gpu() -> None:
    assert operators.triton(torch.device("cpu")) is None
    assert operators.triton(torch.device("meta")) is None
    assert operators.fused(torch.device("meta")) is None


def test_training_on_a_cpu_imports_the_door_and_no_kernel() -> None:
    assert said(LAYER) == "['pennyweight.kernels.gpu.door']"


def test_the_door_says_why_it_is_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYWEIGHT_KERNELS", "off")
    assert door.obstacle() == "PENNYWEIGHT_KERNELS is off"
    monkeypatch.delenv("PENNYWEIGHT_KERNELS")
    monkeypatch.setattr(door, "find_spec", lambda name: None)
    assert "pennyweight[gpu]" in str(door.obstacle())
    monkeypatch.setattr(door, "find_spec", lambda name: "there")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert door.obstacle() == "no GPU that PyTorch can use is here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert door.obstacle() == "Tesla T4 is older than compute capability 8.0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert door.obstacle() is None
    assert "Tesla T4" in door.reason()


def test_a_shut_door_is_told_once_and_other_operators_stand_in(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    door.operators.cache_clear()
    monkeypatch.setattr(door, "obstacle", lambda: "hidden by a test")
    assert operators.fused(torch.device("cuda")) is None
    assert operators.triton(torch.device("cuda")) is None
    assert [record.getMessage() for record in caplog.records] == [
        "the Triton kernels are not used, PyTorch's own operators stand in: hidden by a test"
    ]
    door.operators.cache_clear()


def test_the_doctor_has_a_line_for_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "obstacle", lambda: "hidden by a test")
    shut = {line.operation: line for line in doctor()}["int8 linear layer and AdamW on a GPU"]
    assert (shut.door, shut.why) == ("the operators below", "hidden by a test")
    monkeypatch.setattr(door, "obstacle", lambda: None)
    assert {line.operation: line for line in doctor()}["int8 linear layer and AdamW on a GPU"].door == "Triton"


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_every_kernel_compiles_for_an_h100_and_multiplies_on_its_tensor_cores(tmp_path: object) -> None:
    assert said(COMPILED, TRITON_CACHE_DIR=str(tmp_path)) == "compiled"
