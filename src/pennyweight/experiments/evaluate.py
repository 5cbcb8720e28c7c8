"""Evaluate: what a saved causal language model makes of a text, in nats a token and bits a byte."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from pennyweight.data import documents, prepare, validation_batches
from pennyweight.data.tokenizer import encode, load
from pennyweight.training import Run, load_run, validation_loss
from pennyweight.training.folder import MODEL, RUN
from pennyweight.training.machine import device
from pennyweight.training.models import no_progress_bar
from pennyweight.training.objectives import NextToken
from pennyweight.training.validation import perplexity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS_BYTES = 128 << 20  # float32 logits of one batch: small beside any model worth measuring
LONGEST_DEFAULT = 1024  # tokens a sequence, where the model could read more


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a text: every token but the first is predicted once, from those before it in its window."""

    model: str
    data: str
    data_hash: str
    loss: float  # nats a token
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int  # of the text, UTF-8
    documents: int
    ends: int  # end tokens among the tokens: one between two documents
    context: int
    precision: str  # that the model computed in: the run's on the run's own text, else fp32
    left_out: list[tuple[str, str]]  # (name, why)

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as plain JSON."""
        return asdict(self)


def model_folder(path: Path) -> Path:
    """The folder that holds the model: the one given, or `model` in a run folder. Errors: FileNotFoundError."""
    for folder in (path, path / MODEL):
        if (folder / "config.json").is_file():
            return folder
    what = "holds no config.json" if path.is_dir() else "is no folder"
    raise FileNotFoundError(f"eval wants the folder of a transformers model, but {str(path)!r} {what}")


def load_model(folder: Path) -> "PreTrainedModel":
    """The model in float32. Errors: ValueError for a folder that is no complete causal language model."""
    from transformers import AutoModelForCausalLM  # here, not at the top: a report is written without it

    try:
        with no_progress_bar():
            loaded: Any = AutoModelForCausalLM.from_pretrained(  # Any: it is a pair here, which the stubs hide
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        model, told = loaded
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise ValueError(f"the model in {str(folder)!r} cannot be loaded: {reason}") from None
    if told["missing_keys"] or told.get("mismatched_keys"):
        lost = sorted(map(str, told["missing_keys"])) or ["some of another shape"]
        raise ValueError(f"the model in {str(folder)!r} lacks {len(lost)} of its weights ({lost[0]} ...)")
    return model.eval()


@dataclass(frozen=True)
class Text:
    """Tokens to predict, and what they stand for."""

    tokens: NDArray[np.integer]
    bytes: float
    documents: int
    ends: int  # end tokens among those to predict
    name: str
    hash: str
    left_out: list[tuple[str, str]]
    run: Run | None = None  # that was measured on it


def read_text(folder: Path, data: str) -> Text:
    """Any text in the tokens of the model in `folder`, an end token between two documents; a file is one document."""
    read = documents(data, cut=list)
    texts = [text for _, text in read]
    tokens = np.concatenate(list(encode(load(folder), texts)))[:-1]  # nothing follows the last document
    num_bytes, count = sum(len(text.encode()) for text in texts), len(texts)
    return Text(tokens, num_bytes, count, count - 1, data, read.hash, list(read.left_out))


def own_validation(folder: Path) -> Text:
    """The validation set of the run that the model came from. Errors: ValueError where no run is beside the model."""
    if not (folder.parent / RUN).is_file():
        raise ValueError(f"eval wants --data: {str(folder)!r} does not stand in a run folder that would name its text")
    run = load_run(folder.parent)
    corpus = prepare(run.data.source, tokenizer=run.data.tokenizer, validation=run.data.validation)
    tokens = np.asarray(corpus.valid[: run.evaluation.tokens + 1])
    name = f"the validation part of {run.data.source}"
    is_end = tokens == corpus.tokenizer.eos_token_id
    num_bytes = (len(tokens) - 1) * corpus.bytes_per_token  # as the run's own bits_per_byte counts them
    count = int(is_end.sum()) + int(not is_end[-1])  # the last one may be cut short
    return Text(tokens, num_bytes, count, int(is_end[1:].sum()), name, corpus.hash, [], run)


def evaluate(
    folder: Path | str, data: str | None = None, *, context: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:  # fmt: skip
    """Loss, perplexity and bits a byte of the model in `folder` on `data` (a file, a folder, hf:name, stdlib).

    `data` None: the validation set of the run that the model came from. The documents follow each other, an end token
    between two, cut into windows of `context` tokens (else the run's, else the model's own length, at most 1,024) as a
    run's validation is. On the run's own text, in the run's precision and context, this is its val_loss_plain; any
    other text is computed in float32.

    `progress` is called with the tokens done and all of them.
    Errors: FileNotFoundError, ValueError, one sentence each.
    """
    folder = model_folder(Path(folder))
    text = read_text(folder, data) if data is not None else own_validation(folder)
    model = load_model(folder)
    run = text.run
    longest = getattr(model.config, "max_position_embeddings", None)
    context = _context(run.data.context if context is None and run else context, longest)
    vocabulary = _vocabulary(model)
    _check(text, vocabulary, folder)
    batch = run.batch if run else max(1, min(64, LOGITS_BYTES // (4 * vocabulary * context)))
    total = len(text.tokens) - 1
    batches = _told(validation_batches(text.tokens, context, batch), total, progress)
    where = device()
    model.to(where)  # type: ignore[arg-type]  # transformers' wrapper hides that a text is fine
    precision = run.recipe.phases[-1].precision if run else "fp32"
    loss = validation_loss(model, batches, objective=NextToken(), precision=precision, device=where)
    return Evaluation(
        str(folder), text.name, text.hash, loss, perplexity(loss),
        loss * total / math.log(2) / text.bytes, total, round(text.bytes), text.documents, text.ends, context,
        precision, text.left_out,
    )  # fmt: skip


def _told(batches: Iterable[Tensor], total: int, progress: Callable[[int, int], None] | None) -> Iterator[Tensor]:
    """The same batches; `progress` hears of each when the next is asked for."""
    done = 0
    for batch in batches:
        yield batch
        done += batch.numel() - len(batch)
        if progress:
            progress(done, total)


def _vocabulary(model: "PreTrainedModel") -> int:
    """How many tokens the model can read."""
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings.weight, Tensor)
    return embeddings.weight.shape[0]


def _check(text: Text, vocabulary: int, folder: Path) -> None:
    """Errors: ValueError for a text too short to predict anything in, or tokens that the model does not have."""
    if len(text.tokens) < 2:
        raise ValueError(f"{text.name} is a single token, and nothing stands before it to predict it from")
    largest = int(text.tokens.max())
    if largest >= vocabulary:
        raise ValueError(f"the model in {str(folder)!r} holds {vocabulary} tokens, but its tokenizer gives {largest}")


def _context(asked: int | None, longest: int | None) -> int:
    if asked is None:
        return min(longest or LONGEST_DEFAULT, LONGEST_DEFAULT)
    if asked < 1 or (longest is not None and asked > longest):
        raise ValueError(f"the model reads 1 to {longest or 'any number of'} tokens at once, got context={asked}")
    return asked
