"""Models: from a name to a causal language model with fresh weights that only the seed decides."""

import copy
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pennyweight.spelling import closest, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# `transformers` takes seconds to import, so it is imported in the functions that need it: a finished run answers, and a
# report is written, without it.

FAKE_LOGGER = logging.getLogger("torch._subclasses.fake_tensor")  # prints a traceback of all that fails

# The built-in shapes: config.json files without a vocabulary, which follows the tokenizer. Dropout 0: pre-training sees
# each token about once.
_GPT2 = {"model_type": "gpt2", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {**_GPT2, "n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 256},
    "gpt2": {**_GPT2, "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024},
    "llama-small": {
        "model_type": "llama",
        "num_hidden_layers": 8,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    },
    "qwen-small": {
        "model_type": "qwen3",
        "num_hidden_layers": 8,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    },
}


def read_config(spec: str) -> dict[str, Any]:
    """What config.json says for a shape's name, a config.json file, a folder that holds one, or a hub name.

    Only the JSON is read, so no code of a repository ever runs. A hub name is looked for in the local cache first.
    Errors: ValueError for an unknown name (nearest right one) or a file that is no config; FileNotFoundError.
    """
    if spec in SHAPES:
        return copy.deepcopy(SHAPES[spec])
    path = Path(spec)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        path = _from_hub(spec)
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"the model's config is a JSON file, but {path} is not JSON") from None
    if not isinstance(written, dict) or not isinstance(written.get("model_type"), str):
        raise ValueError(f"the model's config says its model_type, but {path} does not")
    return written


def _from_hub(spec: str) -> Path:
    from transformers.utils.hub import cached_file

    path = Path(spec)
    if path.suffix == ".json" or spec.startswith((".", "/", "~")):
        raise FileNotFoundError(f"the model's config {spec} does not exist")
    is_name = spec.count("/") <= 1 and all(part and part.replace("-", "").isascii() for part in spec.split("/"))
    for local in [True, False] if "/" in spec else [True]:  # a bare name is more likely a slip than a hub name
        if not is_name:
            break
        try:
            found = cached_file(spec, "config.json", local_files_only=local)
        except OSError:
            continue
        if found:
            return Path(found)
    if "/" in spec:
        raise FileNotFoundError(f"model {spec!r} is no folder here and no hub model that can be reached")
    raise ValueError(f"model {spec!r} is not known{nearest(spec, list(SHAPES))}")


def unread(spec: str, written: dict[str, Any], *, fresh: bool = True) -> list[str]:
    """What of a named model a run does not read, a sentence each: its weights, and a config that changed since."""
    path = Path(spec)
    told: list[str] = []
    if fresh and spec not in SHAPES and not path.is_file():
        pattern = re.compile(r"(model|pytorch_model).*\.(safetensors|bin)")
        if not path.is_dir() or any(pattern.fullmatch(entry.name) for entry in path.iterdir()):
            told.append(f"of {spec} only the config is read; the weights are fresh")
    if (spec in SHAPES or path.exists()) and read_config(spec) != written:
        told.append(f"the config of {spec} has changed since the run began; it is trained as it began")
    return told


def model_config(
    spec: str, *, vocab_size: int, context: int, end: int | None = None, written: dict[str, Any] | None = None
) -> "PreTrainedConfig":
    """The config of a model that can read `vocab_size` tokens and sequences of `context` tokens.

    `written`: what config.json says, where it was read before; None: it is read now.

    The vocabulary of a built-in shape follows the tokenizer; any other config's own must hold the tokenizer's.
    `end`: the tokenizer's end-of-text id, taken where the config's own lies outside of the vocabulary.
    Errors: ValueError for an unknown type, a context longer than the model's, a vocabulary that is too small.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    written = read_config(spec) if written is None else copy.deepcopy(written)
    kind = written.pop("model_type")
    if kind not in CONFIG_MAPPING:
        near = closest(kind, CONFIG_MAPPING.keys())
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"model {spec!r} is of type {kind!r}, which transformers does not know{hint}")
    written.pop("auto_map", None)
    if spec in SHAPES:
        written["vocab_size"] = vocab_size
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        written.setdefault(name, None if name.startswith("pad") else end)
    try:
        config: PreTrainedConfig = CONFIG_MAPPING[kind].from_dict(written)
    except StrictDataclassError as error:
        raise ValueError(f"model {spec!r} of type {kind!r} cannot be: {' '.join(str(error).split())}") from None
    own = getattr(config, "vocab_size", None)
    if own is None:
        raise ValueError(f"model {spec!r} of type {kind!r} has no vocabulary of its own, so it is no language model")
    if own < vocab_size:
        raise ValueError(f"model {spec!r} holds {own} tokens, but the tokenizer has {vocab_size}")
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and context > longest:
        raise ValueError(f"model {spec!r} reads at most {longest} tokens at once, got data.context={context}")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(config, name, None)
        if isinstance(token, int) and not 0 <= token < own:
            setattr(config, name, end if name != "pad_token_id" else None)
    return config


def build_model(
    spec: str, *, vocab_size: int, context: int, seed: int, end: int | None = None, device: str = "cpu",
    written: dict[str, Any] | None = None,
) -> "PreTrainedModel":  # fmt: skip
    """A causal language model in float32 with fresh weights; nothing but `seed` and the config decides them.

    `device`: where it is built; "meta" gives the shapes without the memory. Errors: see `model_config`.
    """
    config = model_config(spec, vocab_size=vocab_size, context=context, end=end, written=written)
    return from_config(config, seed=seed, device=device, name=spec)


def from_config(config: "PreTrainedConfig", *, seed: int, device: str = "cpu", name: str = "") -> "PreTrainedModel":
    """The model of a config, in float32. Errors: ValueError when no causal language model can be made of it."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        try:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            if reason.startswith("Unrecognized configuration class"):
                raise ValueError(f"model {name!r} of type {config.model_type!r} is no causal language model") from None
            raise ValueError(f"model {name!r} of type {config.model_type!r} cannot be: {reason}") from None
    return model


def check_model(spec: str, *, context: int, written: dict[str, Any] | None = None) -> None:
    """Makes sure that the model can be built and run, on tensors without contents.

    Costs: no memory, a fifth of a second for twelve layers. Errors: see `model_config`; ValueError where sizes that the
    config names do not fit together.
    """
    with FakeTensorMode():
        model = build_model(spec, vocab_size=1, context=context, seed=0, written=written)
        tokens = torch.zeros(1, min(context, 2), dtype=torch.int64)
        before, FAKE_LOGGER.disabled = FAKE_LOGGER.disabled, True
        try:
            model(input_ids=tokens, use_cache=False)
        except (RuntimeError, ValueError, IndexError) as error:
            kind, reason = model.config.model_type, str(error).partition("\n")[0].rstrip(".")
            raise ValueError(
                f"model {spec!r} of type {kind!r} cannot be: the sizes in its config do not fit together ({reason})"
            ) from None
        finally:
            FAKE_LOGGER.disabled = before


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Without transformers' own progress bars for the reading and the writing of a model."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
