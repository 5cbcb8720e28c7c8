"""Launch: from what is asked to its answer: refused in one sentence, answered from the folder, or trained."""

from pathlib import Path

from pennyweight.data import check_names, prepare
from pennyweight.training.folder import RunFolder
from pennyweight.training.limits import check_text
from pennyweight.training.models import check_model, unread
from pennyweight.training.progress import teller
from pennyweight.training.result import Result
from pennyweight.training.run import Run
from pennyweight.training.settings import resolved
from pennyweight.training.trackers import check_tracker
from pennyweight.training.weights import check_tokenizer


def train(
    run: Run, out: Path | str | None = None, *, resume: bool | Path | str = False, progress: bool = True
) -> Result:
    """Trains `run` and returns what it came to; in a folder it continues where it was, and a finished run only answers.

    out:      the run folder (run.json, ledger.jsonl, checkpoints/, model/, result.json); None keeps nothing.
    resume:   True: there must be something to continue in `out`; a path: the folder to continue in.
    progress: whether stderr shows how far it is.

    Errors: ValueError, FileNotFoundError, FileExistsError for what cannot be asked for, before anything is written;
    TrainingFailed for a loss that is no number (Diverged) and a full disk, with the last checkpoint in place;
    KeyboardInterrupt after Ctrl-C, saved.
    """
    folder, run = _folder(run, out, resume), resolved(run)
    tell = teller(str(run.recipe), progress=progress)
    result = None if folder is None else folder.answer(run)
    if result is not None:
        if progress:
            tell("finished earlier, nothing is trained")
        return result
    check(run)  # first, for a slip may be why the folder seems to hold another run
    if folder is not None:
        folder.admit(run, resume=bool(resume))
    assert run.config is not None
    for sentence in unread(run.model, run.config.written, fresh=run.weights is None):
        tell(sentence)
    data = run.data
    corpus = prepare(data.source, tokenizer=data.tokenizer, validation=data.validation, progress=tell)
    check_text(run, corpus)
    check_tokenizer(run, corpus)
    tell("building the model")
    # Here, not at the top: it imports transformers, which a finished run, a report and a recipe do without.
    from pennyweight.training.session import trained

    return trained(run, corpus, folder, progress=progress)


def check(run: Run) -> None:
    """Makes sure of what a run says by itself, before any data is read: its model, and the names of its data.

    Errors: FileNotFoundError and ValueError, one sentence each with the nearest right name.
    """
    check_tracker(run.tracker)
    check_names(run.data.source, run.data.tokenizer)
    check_model(run.model, context=run.data.context, written=run.config.written if run.config else None)


def _folder(run: Run, out: Path | str | None, resume: bool | Path | str) -> RunFolder | None:
    """The run folder that was meant. Errors: ValueError for settings that need one, or for two of them."""
    named = None if isinstance(resume, bool) else Path(resume)
    if named is not None and out is not None and named != Path(out):
        raise ValueError(f"a run is resumed where it was, but resume={str(named)!r} and out={str(out)!r} differ")
    path = named if named is not None else out
    if path is not None:
        return RunFolder(Path(path))
    if resume:
        raise ValueError("resume needs a run folder, got none; give out=")
    if run.tracker not in ("auto", "none"):
        raise ValueError(f"tracker={run.tracker} needs a run folder, got none; give out=")
    if run.checkpoint.every:
        raise ValueError(f"checkpoint.every={run.checkpoint.every} needs a run folder, got none; give out=")
    return None
