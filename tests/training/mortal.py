"""Trains in processes that are killed: reads one JSON task a line, forks, and answers with how the child ended.

A task is {"run": Run.to_dict(), "folder": path} and, if the child shall die, {"at": place, "n": count} (it kills itself
at the n-th such moment) or {"seconds": s} (it is killed from outside). Importing once and forking makes a trial cheap.
"""

import json
import os
import signal
import sys
import time

import torch
import transformers.models.gpt2.modeling_gpt2  # noqa: F401  # once here, so that no child has to

from pennyweight.training import Run, checkpoint, files, guarded, ledger, train


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def mine(room: object, name: str, n: int, *, first: object = None, then: object = None, when: object = None) -> None:
    """Kills this process at the n-th call of room.name: before it (then=None) or after `then` has done its part."""
    whole = getattr(room, name)
    calls = [0]

    def trap(*args: object, **kwargs: object) -> object:
        if when is None or when(*args, **kwargs):
            calls[0] += 1
            if calls[0] == n:
                if then is not None:
                    then(whole, *args, **kwargs)
                die()
        return whole(*args, **kwargs)

    setattr(room, name, trap)


def half(whole: object, path: object, *rest: object) -> None:
    """Leaves a file as a process does that dies in the middle of writing it."""
    whole(path, *rest)
    os.truncate(path, path.stat().st_size // 2)


def half_line(whole: object, self: object, kind: str, step: int, **numbers: object) -> None:
    self._file.write(b'{"kind": "st')


def prepare_death(task: dict) -> None:
    n = task.get("n", 1)
    match task.get("at"):
        case "step":  # between two steps
            mine(ledger.Ledger, "write", n, when=lambda self, kind, step, **_: kind == "step")
        case "line":  # in the middle of a line of the ledger
            mine(ledger.Ledger, "write", n, then=half_line, when=lambda self, kind, step, **_: kind == "step")
        case "tensors":  # in the middle of a tensor file of a checkpoint
            mine(checkpoint, "write_tensors", n, then=half)
        case "json":
            mine(checkpoint, "write_json", n, then=half)
        case "folder":  # whole, but not yet renamed; and renamed, but not yet in the ledger
            mine(files, "sync_folder", n)
        case "prune":  # saved, and one checkpoint more than are kept
            mine(checkpoint, "prune", n)
        case "switch":  # by the next recipe, but not yet in the ledger
            mine(ledger.Ledger, "write", n, when=lambda self, kind, step, **_: kind == "switch")
        case "guard":  # it has seen what it saw, but not yet written it down; or is back, with no step behind it
            mine(ledger.Ledger, "write", n, when=lambda self, kind, step, **_: kind == "guard")
        case "back":
            mine(guarded, "again", n, then=lambda whole, *args, **rest: whole(*args, **rest))
        case "noted":
            mine(ledger.Ledger, "write", n, when=lambda self, kind, step, **_: kind == "checkpoint")


def child(task: dict) -> None:
    prepare_death(task)
    train(Run.from_dict(task["run"]), task["folder"], progress=False)


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        task = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child(task)
                status = 0
            finally:
                os._exit(status)
        if "seconds" in task:
            time.sleep(task["seconds"])
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"killed": os.WIFSIGNALED(status), "status": status}), flush=True)


if __name__ == "__main__":
    main()
