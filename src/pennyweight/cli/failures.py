"""Failures: what went wrong, as one sentence on stderr and an exit status."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from pennyweight.spelling import nearest

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
# the root of everything typer says about a wrong command line; typer 0.29 moved it, so it is found by name
USAGE_ERROR: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException" and issubclass(kind, Exception)
)
BAD_REQUEST = (ValueError, TypeError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)


def say(sentence: str) -> None:
    """Prints one line on stderr."""
    print(f"pennyweight: {' '.join(sentence.split())}", file=sys.stderr, flush=True)


def _asked_for_traceback() -> bool:
    return bool(os.environ.get("PENNYWEIGHT_TRACEBACK"))


def usage_sentence(error: Any) -> str:  # Any: typer's error classes moved between its versions
    """What was wrong with the command line, with the nearest right name."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", None)
    if option and context is not None and type(error).__name__ == "NoSuchOption":
        known = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
        return f"{context.info_name} has no option {option!r}{nearest(option, sorted(known))}"
    if "No such command" in message and context is not None:
        verb = message.split("'")[1] if "'" in message else message
        known = sorted(getattr(context.command, "commands", {}))
        return f"no verb is called {verb!r}{nearest(verb, known)}"
    where = f"{context.info_name}: " if context is not None and context.info_name else ""
    return f"{where}{message}"


def status_of(command: Callable[[], object]) -> int:
    """Runs a command; its exit status. A bad request is 2, a failed run 1, Ctrl-C 130, each with one sentence."""
    try:
        status = command()
    except USAGE_ERROR as error:
        say(usage_sentence(error))
        return REFUSED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BAD_REQUEST as error:
        return _told(error, REFUSED)
    except (OSError, MemoryError) as error:
        return _told(error, FAILED)
    except RuntimeError as error:
        if type(error).__name__ not in {"TrainingFailed", "Diverged", "DiskFull", "OutOfMemoryError"}:
            raise  # a mistake of ours: its traceback is what a report needs
        return _told(error, FAILED)
    return status if isinstance(status, int) else DONE


def _told(error: BaseException, status: int) -> int:
    if _asked_for_traceback():
        traceback.print_exc()
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    say(text or type(error).__name__)
    return status
