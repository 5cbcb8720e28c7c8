"""MLflow: the ledger as a run in the place that MLFLOW_TRACKING_URI names, else in a database in the run folder."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from mlflow.entities import Metric, RunTag  # type: ignore[reportMissingImports]  # optional
from mlflow.exceptions import MlflowException  # type: ignore[reportMissingImports]
from mlflow.tracking import MlflowClient  # type: ignore[reportMissingImports]

from pennyweight.training.run import Run
from pennyweight.training.settings import flat
from pennyweight.training.trackers.tracker import Line, event, scalars

ID, DATABASE = "mlflow-id", "mlflow.db"  # files in the run folder
LONGEST = 500  # characters of a parameter, as their oldest servers take them


class MLflow:
    """One call a line; a run that goes on is the same run there, and steps that it has are not sent again.

    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME (else "pennyweight") hold as they do everywhere.
    """

    def begin(self, run: Run, folder: Path, lines: Sequence[Line]) -> None:
        """Begins the run or resumes it. Errors: ValueError where mlflow refuses, with what it says."""
        known = folder / ID
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / DATABASE).absolute()}"
        try:
            self._client = MlflowClient(tracking_uri=place)
            if known.is_file():
                self._id = known.read_text().strip()
                self._client.update_run(self._id, status="RUNNING")
            else:
                self._id = self._created(run, folder)
                known.write_text(self._id + "\n")
        except MlflowException as error:
            raise ValueError(f"mlflow did not begin a run at {place}: {error}; name another, or tracker=none") from None
        self._latest: dict[str, int] = {}
        self._finished = False

    def write(self, line: Line) -> None:
        """One call; nothing for numbers of a step that stands there from a process before."""
        step, said = int(line["step"]), event(line)
        fresh = {key: value for key, value in scalars(line).items() if step > self._last(key)}
        tags = [] if said is None else [RunTag(f"{line['kind']}.{step}", said)]
        self._client.log_batch(self._id, [Metric(key, value, _now(), step) for key, value in fresh.items()], tags=tags)
        self._finished = line["kind"] == "end"

    def end(self) -> None:
        """Says how it ended."""
        self._client.set_terminated(self._id, "FINISHED" if self._finished else "KILLED")

    def _created(self, run: Run, folder: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "pennyweight")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        made = self._client.create_run(experiment, run_name=f"{run.recipe} seed {run.seed}").info.run_id
        for path, value in flat(run.to_dict()).items():
            if path.partition(".")[0] != "config":
                self._client.log_param(made, path, str(value)[:LONGEST])
        return made

    def _last(self, key: str) -> int:
        """The last step of a metric that the processes before this one have sent; -1: none."""
        if key not in self._latest:
            history = self._client.get_metric_history(self._id, key)
            self._latest[key] = max((metric.step for metric in history), default=-1)
        return self._latest[key]


def _now() -> int:
    """Milliseconds, as mlflow counts time."""
    return int(time.time() * 1000)
