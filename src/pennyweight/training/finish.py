"""The end of a run: the model that loads without Pennyweight, and the result."""

import copy
import math

from torch import nn
from transformers import PreTrainedModel

from pennyweight.data import Corpus, validation_batches
from pennyweight.data.tokenizer import save as save_tokenizer
from pennyweight.nn import plain_weights
from pennyweight.numerics import stored_of
from pennyweight.training.files import whole_folder
from pennyweight.training.folder import RunFolder
from pennyweight.training.guard import Diverged
from pennyweight.training.machine import machine, versions
from pennyweight.training.memory import Categories, give_freed_memory_back
from pennyweight.training.models import from_config, no_progress_bar
from pennyweight.training.result import Result
from pennyweight.training.state import Training, untied
from pennyweight.training.validation import perplexity, validation_loss


def plain_model(training: Training) -> PreTrainedModel:
    """The model as it is saved: an ordinary one whose weights are those that the recipe writes.

    A recipe that writes the head but not the embedding it is tied to makes two tensors of one; the config says so.
    Gives back what the trained model held, so that there are never more than two copies of the weights.
    """
    config = copy.deepcopy(training.model.config)
    weights = plain_weights(training.model)
    stored = sum(stored_of(p) is not None for p in training.model.parameters())  # two tensors each, codes and scales
    if len(untied(weights)) > len(untied(training.model.state_dict())) - stored:
        config.tie_word_embeddings = False
    training.model.to_empty(device="meta")
    give_freed_memory_back()
    model = from_config(config, seed=training.run.seed, name=training.run.model)
    model.load_state_dict(weights)
    return model


def finish(
    training: Training, corpus: Corpus, *, predicted: Categories, folder: RunFolder | None, device: str
) -> Result:
    """Measures the model as it is saved, saves it, and says what the run came to.

    Ends the training: its optimizer and its model give their memory back, so that this does not add to the peak.
    Errors: Diverged when the saved model's loss is not finite; OSError (a full disk), then nothing half-written stays.
    """
    run, progress = training.run, training.progress
    every = sum(p.numel() for p in training.model.parameters())
    embeddings = {id(m.weight): m.weight.numel() for m in training.model.modules() if isinstance(m, nn.Embedding)}
    training.optimizer.state.clear()
    give_freed_memory_back()
    model = plain_model(training)
    batches = validation_batches(corpus.valid, run.data.context, run.batch, run.evaluation.tokens)
    precision = training.conversion.recipe.precision
    plain = validation_loss(
        model.to(device),  # type: ignore[arg-type]  # transformers' wrapper hides that a text is fine
        batches,
        objective=run.objective,
        precision=precision,
        device=device,
    )
    if not math.isfinite(plain):
        raise Diverged(
            f"the model as saved has a validation loss of {plain}", step=progress.step, where="the written weights"
        )
    counted = (every, every - sum(embeddings.values()))
    result = _result(training, corpus, plain=plain, counted=counted, predicted=predicted, folder=folder)
    if folder is not None:
        with whole_folder(folder.model) as partial, no_progress_bar():
            model.save_pretrained(partial)
            corpus.tokenizer.model_max_length = run.data.context
            save_tokenizer(corpus.tokenizer, partial)
            for path in partial.iterdir():  # safetensors lets only the owner read what it writes
                path.chmod((partial / "config.json").stat().st_mode)
    return result


def _result(
    training: Training,
    corpus: Corpus,
    *,
    plain: float,
    counted: tuple[int, int],
    predicted: Categories,
    folder: RunFolder | None,
) -> Result:
    run, progress, conversion = training.run, training.progress, training.conversion
    loss = progress.validation[-1][1]
    return Result(
        recipe=str(run.recipe),
        seed=run.seed,
        val_loss=loss,
        val_loss_plain=plain,
        perplexity=perplexity(loss),
        bits_per_byte=loss / math.log(2) / corpus.bytes_per_token,
        tokens=progress.tokens,
        steps=progress.step,
        tokens_per_second=progress.tokens / progress.step_seconds,
        peak_memory_bytes=progress.peak_memory_bytes,
        seconds=progress.seconds,
        initial_loss=progress.validation[0][1],
        status="finished",
        data_hash=corpus.hash,
        folder=str(folder.path) if folder else None,
        parameters=counted[0],
        parameters_non_embedding=counted[1],
        memory={
            category: {"predicted": size, "measured": progress.memory.get(category)}
            for category, size in predicted.items()
        },
        curve=progress.curve,
        validation=progress.validation,
        four_bit_share=conversion.share(4),
        eight_bit_share=conversion.share(8),
        converted=list(conversion.converted),
        left=[(name, why) for name, why in conversion.left],
        run=run.to_dict(),
        machine=machine(),
        versions=versions(),
        swallowed_share=None if progress.swallowed is None else progress.swallowed / progress.step,
        guard=progress.guard,
        diagnosis_seconds=progress.diagnosis_seconds,
    )
