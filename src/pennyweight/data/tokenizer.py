"""The tokenizer: how text becomes token numbers, by byte-level BPE of its own or by any Hugging Face tokenizer."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tokenizers
from numpy.typing import NDArray

from pennyweight.spelling import closest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# `transformers` takes a second and more to import, so it is imported in the functions that need it: a cached corpus
# opens without it, until its tokenizer is asked for.

END = "<|endoftext|>"  # stands after every document
SMALLEST = 257  # 256 bytes and END
LARGEST = 1 << 20
BPE = re.compile(r"bpe-(\d+)")
FAMILIAR = ("bpe-4096", "bpe-8192", "bpe-16384", "bpe-32768", "bpe-257", "gpt2")


def check_name(name: str) -> None:
    """ValueError, with the nearest right name, for a tokenizer name that cannot be meant; hub names pass."""
    match = BPE.fullmatch(name)
    if match and not SMALLEST <= int(match[1]) <= LARGEST:
        raise ValueError(f"tokenizer 'bpe-N' holds {SMALLEST} (plain bytes) to {LARGEST} tokens, got {name!r}")
    if match or (name and Path(name).is_dir()):
        return
    if not name or re.fullmatch(r"(?i)b\w?[pe]\w?[\W_]?\d*k?|bytes?", name):  # a slip in bpe-N need not ask the hub
        raise ValueError(f"tokenizer {name!r} is unknown{_hint(name)}")


def _hint(name: str) -> str:
    """`; did you mean ...?` with the nearest right name, if that is another one."""
    digits = re.search(r"(\d+)$", name)
    if re.match(r"(?i)byte", name):
        near = f"bpe-{SMALLEST}"
    elif digits and SMALLEST <= int(digits[1]) <= LARGEST and name.lower().startswith("b"):
        near = f"bpe-{digits[1]}"
    else:
        near = closest(name.lower(), FAMILIAR) or FAMILIAR[0]
    return f"; did you mean {near!r}?" if near != name else ""


def identity(name: str) -> str:
    """What a cached corpus must agree on: the name, and for a folder the contents of its tokenizer."""
    file = Path(name) / "tokenizer.json"
    if BPE.fullmatch(name) or not file.is_file():
        return name
    return "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()


def make(name: str, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
    """The tokenizer of that name: `bpe-N` is trained on the texts, everything else is loaded (a folder or the hub).

    Its end-of-sequence token is the one that stands after every document. Raises ValueError for an unknown name.
    """
    check_name(name)
    match = BPE.fullmatch(name)
    return train(texts, int(match[1])) if match else load(name)


def train(texts: Iterable[str], size: int) -> "PreTrainedTokenizerFast":
    """Byte-level BPE of at most `size` tokens: every text decodes to itself. The same texts give the same tokens.

    Source: Sennrich, Haddow and Birch 2016, arXiv:1508.07909; on bytes: Radford et al. 2019 (GPT-2).
    Ancestor: size 257 is the bytes themselves.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, clean_up_tokenization_spaces=False
    )


def load(name: str | Path) -> "PreTrainedTokenizerFast":
    """A Hugging Face tokenizer from a folder or the hub; only its data is read, never code that lies beside it."""
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"tokenizer {str(name)!r} is neither 'bpe-N' nor a folder or hub name whose tokenizer.json can be read"
            f"{_hint(str(name))}"
        ) from error
    tokenizer.backend_tokenizer.no_truncation()  # some are saved as they were last used, cutting what is long
    tokenizer.backend_tokenizer.no_padding()
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": END})
    return tokenizer


def save(tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Writes the tokenizer into a folder as transformers does. Errors: OSError (a full disk)."""
    folder.mkdir(exist_ok=True)
    text = tokenizer.backend_tokenizer.to_str(pretty=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")  # first here: of a full disk `tokenizers` raises
    tokenizer.save_pretrained(str(folder))  # a bare Exception, which nobody can tell from a mistake


def encode(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    """The tokens of each text in turn and the end token; special tokens spelled out in a text are plain text."""
    backend = tokenizer.backend_tokenizer
    end = tokenizer.eos_token_id
    remaining = iter(texts)
    before, backend.encode_special_tokens = backend.encode_special_tokens, True
    try:
        while batch := list(islice(remaining, 64)):
            for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
                yield np.array([*encoding.ids, end], dtype=np.int64)
    finally:
        backend.encode_special_tokens = before
