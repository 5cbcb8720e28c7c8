"""Ray: the cells of a sweep as tasks of a Ray cluster, each in a fresh process on the node that Ray chooses.

The only file that imports Ray (the extra `cluster`). Every node needs this package and sees the sweep's folder.
"""

import importlib.util
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from pennyweight.experiments.worker import PATIENCE_SECONDS, Answer, in_fresh_process
from pennyweight.training import Run

LOCAL = "local"  # a cluster of this machine alone, for as long as the sweep runs
ANSWER_SECONDS = 30.0  # for a cluster to answer
CONNECT_SECONDS = 10.0  # for its machine to do so
STORE_BYTES = 128 * 2**20  # of Ray's object store on this machine: what goes through it is JSON
# Asked in a process of its own: a Ray that gets no answer may wait for minutes, or end its process.
PROBE = """
import logging, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
ray.nodes()
"""


class Cluster:
    """Cells as tasks of a Ray cluster that reserve the CPUs that they compute with.

    Errors: ValueError where Ray is not installed, the address does not answer, or no node has that many CPUs.
    """

    def __init__(self, address: str | None, *, room: int | None, threads: int) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ValueError("--on ray wants Ray, which is not installed here: pip install 'pennyweight[cluster]'")
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray tells nobody of this
        # of a cluster begun here: its cells wait for nobody else
        os.environ.setdefault("RAY_worker_niceness", "0")
        address = address or LOCAL
        if address != LOCAL:
            _check_answers(address)
        import ray  # it takes a second, which only its users wait

        self._ray: Any = ray
        own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        if room is not None:
            own["num_cpus"] = room * threads
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **(own if address == LOCAL else {}))
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        if max(cpus, default=0) < threads:
            ray.shutdown()
            raise ValueError(
                f"a cell of this sweep computes with {threads} threads, but the largest node of the Ray cluster at "
                f"{address} has {max(cpus, default=0)} CPUs"
            )
        self.room = room or sum(count // threads for count in cpus)
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self._task = ray.remote(_train).options(num_cpus=threads, num_gpus=gpus, max_retries=0)
        self._running: dict[Any, str] = {}

    def start(self, cell: str, run: Run, folder: Path, threads: int) -> None:
        """Hands a cell to the cluster."""
        self._running[self._task.remote(run.to_dict(), str(folder), threads, os.getcwd())] = cell

    def ended(self, seconds: float) -> list[tuple[str, Answer]]:
        """The cells that ended since, with what they came to; waits at most so long for the first."""
        if not self._running:
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        more, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [(self._running.pop(one), self._answer(one)) for one in dict.fromkeys([*done, *more])]

    def _answer(self, one: Any) -> Answer:
        try:
            return self._ray.get(one)
        except self._ray.exceptions.TaskCancelledError:
            return {"interrupted": True}
        except self._ray.exceptions.RayError as error:
            return {"status": "failed", "error": f"Ray lost the cell: {' '.join(str(error).split())[:300]}"}

    def close(self, *, at_once: bool = False) -> list[tuple[str, Answer]]:
        """Ctrl-C for every cell that still runs, on its node: it saves and ends; `at_once`: not even that."""
        for one in self._running:
            self._ray.cancel(one, force=at_once)
        done: list[Any] = []
        if self._running:
            done, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=PATIENCE_SECONDS)
        told = [(self._running.pop(one), self._answer(one)) for one in done]
        self._running.clear()
        self._ray.shutdown()
        return told


def _train(written: dict[str, Any], folder: str, threads: int, place: str) -> Answer:
    """What a node does: trains a cell in a fresh process, with paths read as where the sweep was asked for."""
    sweep = Path(folder).parent.parent
    if not sweep.is_dir():
        error = f"the Ray node {socket.gethostname()} does not see {sweep}; put --out on a disk that all nodes share"
        return {"refused": "FileNotFoundError", "error": error}
    if os.path.isdir(place):
        os.chdir(place)
    return in_fresh_process(Run.from_dict(written), Path(folder), False, threads)


def _check_answers(address: str) -> None:
    """Errors: ValueError where no Ray cluster answers at this address in time."""
    sentence = f"no Ray cluster answers at {address!r}"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            what = f"within {CONNECT_SECONDS:g} seconds" if isinstance(error, TimeoutError) else f"({error})"
            raise ValueError(f"{sentence} {what}") from None
        except OverflowError:
            raise ValueError(f"{sentence}: {port} is no port") from None
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, address], capture_output=True, text=True, timeout=ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{sentence} within {ANSWER_SECONDS:g} seconds") from None
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ValueError(f"{sentence}: {why}; --address takes HOST:PORT, ray://HOST:PORT, auto or local")
