"""The session: a run from where it stands to its result, in a folder or without one."""

import logging
from contextlib import ExitStack

import torch
from safetensors import SafetensorError

from pennyweight.data import Corpus
from pennyweight.training.checkpoint import checkpoints, load, newest, prune
from pennyweight.training.files import is_full
from pennyweight.training.finish import finish
from pennyweight.training.folder import RunFolder
from pennyweight.training.guard import DiskFull, Interrupt, TrainingFailed
from pennyweight.training.ledger import Ledger, read_ledger
from pennyweight.training.limits import check_disk, check_memory
from pennyweight.training.loop import Loop, scheduled
from pennyweight.training.machine import device
from pennyweight.training.memory import Categories, Peak, keep_freed_memory
from pennyweight.training.prediction import predict
from pennyweight.training.progress import shown
from pennyweight.training.result import Result
from pennyweight.training.run import Run
from pennyweight.training.state import Training
from pennyweight.training.trackers import Tracker, tracker_of

logger = logging.getLogger("pennyweight.training")


def trained(run: Run, corpus: Corpus, folder: RunFolder | None, *, progress: bool) -> Result:
    """Trains `run` on `corpus` to its end, in `folder` if there is one.

    Errors: those of `train`; ValueError and TrainingFailed for a run that is too large for this machine, before
    anything is written.
    """
    with torch.random.fork_rng(devices=[]):
        predicted = predict(run, vocab_size=corpus.vocab_size)
        check_memory(predicted, device())
        if device() == "cpu":
            keep_freed_memory(predicted)
        tracker = tracker_of(run, folder.path if folder else None)  # its library is no memory of the training's
        peak = Peak(device())
        training = Training.begin(run, corpus, device())
        if folder is None:
            return _trained(training, corpus, predicted, peak, folder, None, progress)
        check_disk(folder.path, predicted)
        with folder.claimed():
            found = folder.answer(run)  # another process may have been faster since the folder was looked at
            if found is not None:
                return found
            folder.admit(run, resume=False)
            try:
                return _trained(training, corpus, predicted, peak, folder, tracker, progress)
            except (OSError, SafetensorError) as error:
                kind = DiskFull if is_full(error) else TrainingFailed
                raise kind(_lost(folder, error)) from error


def _trained(
    training: Training,
    corpus: Corpus,
    predicted: Categories,
    peak: Peak,
    folder: RunFolder | None,
    tracker: Tracker | None,
    progress: bool,
) -> Result:
    run, lines = training.run, 0
    if folder is not None:
        folder.describe(run, corpus.hash)
        lines = _resume(training, folder)
    start = training.progress.step
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(folder.ledger if folder else None, lines=lines))
        if tracker is not None and folder is not None:
            tracker.begin(run, folder.path, read_ledger(folder.ledger))
            stack.callback(tracker.end)
            ledger.listeners.append(tracker.write)
        if start and scheduled(run, start):
            ledger.write("checkpoint", start)  # its line stood after what the checkpoint remembers, and was cut
        bar = stack.enter_context(shown(str(run.recipe), run.steps, start=start, progress=progress))
        with Interrupt() as interrupt:
            loop = Loop(training, corpus, ledger, folder, bar, interrupt, peak, start or None)
            loop()
        bar.phase("measuring the model as it is saved")
        result = finish(loop.training, corpus, predicted=predicted, folder=folder, device=peak.device)
        ledger.write("end", result.steps, loss=result.val_loss, loss_plain=result.val_loss_plain, tokens=result.tokens)
        ledger.sync()
    if folder is not None:
        folder.finish(result)
    return result


def _resume(training: Training, folder: RunFolder) -> int:
    """Goes on from the newest checkpoint that can be trusted; returns how many lines of the ledger belong to it."""
    path, told = newest(folder.checkpoints)
    if path is None:
        return 0
    for sentence in told:
        logger.warning("%s; going on from %s", sentence, path.name)
    try:
        lines = training.restore(load(path))
    except ValueError as error:
        raise ValueError(f"checkpoint {path} does not fit this run: {error}") from None
    spare = training.progress.sound if training.run.guard.mode == "act" else None
    prune(folder.checkpoints, training.progress.step, keep=training.run.checkpoint.keep, spare=spare)
    return lines


def _lost(folder: RunFolder, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    found = checkpoints(folder.checkpoints)
    stands = f"the last checkpoint is {found[0].name}" if found else "there is no checkpoint yet"
    return f"the run could not be written to {folder.path}: {reason}; {stands}"
