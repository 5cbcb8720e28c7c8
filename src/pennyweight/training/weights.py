"""Weights: how a training begins from those of a model in a folder, and whether they are still the same."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from pennyweight.data import Corpus
from pennyweight.training.run import Run, Weights

MODEL, TOKENIZER = "model", "tokenizer.json"


def weights_files(place: Path) -> list[Path]:
    """The safetensors files of a model folder, of a run folder's model, or the one file that is named.

    Errors: FileNotFoundError where there is none; ValueError for a folder whose weights are written otherwise.
    """
    if place.is_file():
        if place.suffix != ".safetensors":
            raise ValueError(f"weights are read from safetensors, got {place}")
        return [place]
    for folder in (place, place / MODEL):
        if found := sorted(folder.glob("*.safetensors")):
            return found
    if any(next(folder.glob("*.bin"), None) for folder in (place, place / MODEL)):
        raise ValueError(f"weights are read from safetensors, but {place} holds pickled ones (*.bin); save them anew")
    what = "holds no *.safetensors" if place.is_dir() else "is no folder"
    raise FileNotFoundError(f"a training begins from the weights of a model folder, but {str(place)!r} {what}")


def known(weights: Weights) -> Weights:
    """The weights with the hash of what their files hold now, where it is not yet known."""
    if weights.hash:
        return weights
    return Weights(of=weights.of, hash=_hash(weights_files(Path(weights.of))))


def _hash(files: list[Path]) -> str:
    """sha256 over the files, by name: a folder may move, its numbers may not change."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def check_tokenizer(run: Run, corpus: Corpus) -> None:
    """Makes sure that the text comes in the tokens that the weights have learned. Errors: ValueError."""
    if run.weights is None:
        return
    path = weights_files(Path(run.weights.of))[0].parent / TOKENIZER
    if path.is_file() and Tokenizer.from_file(str(path)).get_vocab() != corpus.tokenizer.get_vocab():
        raise ValueError(
            f"the weights in {run.weights.of} have learned other tokens than those of data.tokenizer="
            f"{run.data.tokenizer} on {run.data.source}; take theirs: data.tokenizer={path.parent}"
        )


@torch.no_grad()
def load_weights(model: nn.Module, weights: Weights) -> None:
    """Puts the weights into the model, after making sure that they are the ones that the run began with.

    Errors: ValueError for files that have changed or are damaged, and for weights of another model.
    """
    files = weights_files(Path(weights.of))
    if weights.hash and (now := _hash(files)) != weights.hash:
        raise ValueError(
            f"the weights in {weights.of} have changed since the run began (sha256 {weights.hash[:12]}, now {now[:12]})"
        )
    try:
        there = {name: tensor for path in files for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"the weights in {weights.of} cannot be read: {error}") from None
    own: dict[str, Tensor] = model.state_dict()
    given = {own[name].data_ptr(): tensor for name, tensor in there.items() if name in own}
    missing = [name for name, tensor in own.items() if tensor.data_ptr() not in given and tensor.numel()]
    if odd := [*(name for name in there if name not in own), *missing]:
        raise ValueError(
            f"the weights in {weights.of} are of another model: {', '.join(odd[:3])} in only one of the two"
        )
    for name, tensor in there.items():
        if tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)} and {tuple(own[name].shape)}"
            raise ValueError(f"the weights in {weights.of} are of another model: {name} has the shapes {shapes}")
        if not tensor.isfinite().all():
            raise ValueError(f"the weights in {weights.of} hold numbers that are not finite: {name}")
        if not torch.equal(tensor, given[own[name].data_ptr()]):
            raise ValueError(f"the weights in {weights.of} are of another model: {name} is tied here, but not there")
    for name, tensor in there.items():
        own[name].copy_(tensor)
