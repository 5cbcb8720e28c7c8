"""Tensor files are safetensors files, whatever the library says a tensor file is."""

import hashlib

import pytest
import safetensors.torch
import torch

from pennyweight.training import tensors
from pennyweight.training.tensors import apart, checksum, read_tensors, together, write_tensors


def every_kind():
    made = {f"t{i}": torch.arange(2 * i + 1).to(dtype) for i, dtype in enumerate(tensors.DTYPES)}
    return {
        **made,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "transposed": torch.arange(6.0).view(2, 3).T,
        "grad": torch.ones(2, requires_grad=True),
    }


def test_the_safetensors_library_reads_what_is_written(tmp_path):
    path = tmp_path / "t.safetensors"
    digest = write_tensors(path, every_kind())
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == checksum(path)
    for read in (safetensors.torch.load_file(path), read_tensors(path)):
        assert read.keys() == every_kind().keys()
        for name, tensor in every_kind().items():
            assert read[name].dtype == tensor.dtype
            assert read[name].shape == tensor.shape
            assert torch.equal(read[name].float(), tensor.detach().float())


def test_no_tensor_at_all_is_a_file_too(tmp_path):
    write_tensors(tmp_path / "t.safetensors", {})
    assert safetensors.torch.load_file(tmp_path / "t.safetensors") == {}


def test_a_tree_comes_back_as_it_was():
    tree = {"state": {0: {"m": {"codes": torch.arange(3)}, "step": 2}}, "groups": [{"betas": (0.9, 0.99), "w": None}]}
    found = {}
    flat = apart(tree, found)
    assert list(found) == ["state.0.m.codes"]
    again = together(flat, found)
    assert again["groups"] == tree["groups"]
    assert list(again["state"]) == [0]
    assert torch.equal(again["state"][0]["m"]["codes"], torch.arange(3))


def test_what_json_cannot_hold_is_named():
    with pytest.raises(TypeError, match=r"got set at state\.x"):
        apart({"state": {"x": {1, 2}}}, {})
