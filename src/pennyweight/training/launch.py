"""Training: from a run to its result, in a folder or without one."""

import json
import logging
import shutil
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError

from pennyweight.data import Corpus, prepare, validation_batches
from pennyweight.training import folder as places
from pennyweight.training.checkpoint import checkpoints, load, newest
from pennyweight.training.files import write_whole
from pennyweight.training.finish import finish
from pennyweight.training.guard import Interrupt, TrainingFailed
from pennyweight.training.ledger import Ledger
from pennyweight.training.loop import Loop, scheduled
from pennyweight.training.machine import device
from pennyweight.training.memory import Categories, Peak, keep_freed_memory
from pennyweight.training.models import model_config
from pennyweight.training.prediction import predict
from pennyweight.training.progress import shown
from pennyweight.training.result import Result
from pennyweight.training.run import Run
from pennyweight.training.state import Training

logger = logging.getLogger("pennyweight.training")


def train(
    run: Run, out: Path | str | None = None, *, resume: bool | Path | str = False, progress: bool = True
) -> Result:
    """Trains `run` and returns what it came to; in a folder it continues where it was, and a finished run only answers.

    out:      the run folder (run.json, ledger.jsonl, checkpoints/, model/, result.json); None keeps nothing.
    resume:   True: there must be something to continue in `out`; a path: the folder to continue in.
    progress: whether stderr shows how far it is.

    Errors: ValueError, FileNotFoundError, FileExistsError for what cannot be asked for; TrainingFailed for a loss that
    is no number (Diverged) and a full disk, with the last checkpoint in place; KeyboardInterrupt after Ctrl-C, saved.
    """
    place = _place(run, out, resume)
    if place is not None:
        result = places.finished(place, run, resume=bool(resume))
        if result is not None:
            return result
    model_config(run.model, vocab_size=1, context=run.data.context)  # what cannot be is said before data is prepared
    data = run.data
    corpus = prepare(data.source, tokenizer=data.tokenizer, validation=data.validation)
    validation_batches(corpus.valid, data.context, run.batch, run.evaluation.tokens)  # too short is said here
    with torch.random.fork_rng(devices=[]):
        predicted = predict(run, vocab_size=corpus.vocab_size)
        keep_freed_memory(predicted)
        peak = Peak(device())
        training = Training.begin(run, corpus, device())
        if place is None:
            return _trained(training, corpus, predicted, peak, place, progress)
        _check_room(place, predicted)
        with places.claimed(place):
            try:
                return _trained(training, corpus, predicted, peak, place, progress)
            except (OSError, SafetensorError) as error:
                raise TrainingFailed(_lost(place, error)) from error


def _trained(
    training: Training, corpus: Corpus, predicted: Categories, peak: Peak, place: Path | None, progress: bool
) -> Result:
    run, lines = training.run, 0
    if place is not None:
        places.describe(place, run, corpus.hash)
        lines = _resume(training, place)
    start = training.progress.step
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(None if place is None else place / places.LEDGER, lines=lines))
        if start and scheduled(run, start):
            ledger.write("checkpoint", start)  # its line stood after what the checkpoint remembers, and was cut
        bar = stack.enter_context(shown(str(run.recipe), run.steps, start=start, progress=progress))
        with Interrupt() as interrupt:
            Loop(training, corpus, ledger, place, bar, interrupt, peak)()
        result = finish(training, corpus, predicted=predicted, place=place, device=peak.device)
        ledger.write("end", result.steps, loss=result.val_loss, loss_plain=result.val_loss_plain, tokens=result.tokens)
        ledger.sync()
    if place is not None:
        write_whole(place / places.RESULT, json.dumps(result.to_dict(), indent=1) + "\n")
    return result


def _place(run: Run, out: Path | str | None, resume: bool | Path | str) -> Path | None:
    """The run folder that was meant. Errors: ValueError for settings that need one, or for two of them."""
    named = None if isinstance(resume, bool) else Path(resume)
    if named is not None and out is not None and named != Path(out):
        raise ValueError(f"a run is resumed where it was, but resume={str(named)!r} and out={str(out)!r} differ")
    place = named if named is not None else None if out is None else Path(out)
    if place is None and resume:
        raise ValueError("resume needs a run folder, got none; give out=")
    if place is None and run.checkpoint.every:
        raise ValueError(f"checkpoint.every={run.checkpoint.every} needs a run folder, got none; give out=")
    return place


def _resume(training: Training, place: Path) -> int:
    """Goes on from the newest checkpoint that can be trusted; returns how many lines of the ledger belong to it."""
    path, told = newest(place / places.CHECKPOINTS)
    if path is None:
        return 0
    for sentence in told:
        logger.warning("%s; going on from %s", sentence, path.name)
    try:
        return training.restore(load(path))
    except ValueError as error:
        raise ValueError(f"checkpoint {path} does not fit this run: {error}") from None


def _check_room(place: Path, predicted: Categories) -> None:
    """Says at once that a checkpoint and the model will not fit on the disk. Errors: TrainingFailed."""
    needed = 2 * predicted["weights"] + predicted["states"]
    there = next(path for path in [place, *place.absolute().parents] if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise TrainingFailed(
            f"a checkpoint and the model of this run need {needed / 1e6:,.0f} MB in {place}, "
            f"where {free / 1e6:,.0f} MB are free"
        )


def _lost(place: Path, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    found = checkpoints(place / places.CHECKPOINTS)
    stands = f"the last checkpoint is {found[0].name}" if found else "there is no checkpoint yet"
    return f"the run could not be written to {place}: {reason}; {stands}"
