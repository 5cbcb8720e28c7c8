"""Ray: the real engine on this machine; the same cells give the same numbers wherever they are trained."""

import importlib.util
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pennyweight.experiments import sweep
from pennyweight.experiments.sweep import on_ray
from pennyweight.training import Run

from .test_kill import attempts, command, losses

HOUSE = Path(__file__).parents[3] / "src" / "pennyweight"
with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture
def cluster(base: Run) -> Iterator[str]:
    """The address of a cluster with two nodes of one CPU."""
    started = [sys.executable, str(Path(__file__).with_name("cluster.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(started, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin
        assert process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()
        process.wait(120)


@with_ray
@pytest.mark.long
def test_a_cluster_of_two_nodes_gives_the_same_numbers_bit_for_bit(tmp_path: Path, base: Run, cluster: str) -> None:
    grid = ["--grid", "weights=none,8", "activations=none,8", "--json"]
    here = subprocess.run(command(base, tmp_path / "here", *grid, "--jobs", "2"), capture_output=True, text=True)
    there = subprocess.run(
        command(base, tmp_path / "there", *grid, "--on", "ray", "--address", cluster), capture_output=True, text=True
    )
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
    mine, theirs = (losses(json.loads(done.stdout)["runs"]) for done in (here, there))
    assert len(mine) == 4
    assert mine == theirs
    assert list(attempts(tmp_path / "there").values()) == [["finished"]] * 4
    wide = command(base, tmp_path / "wide", *grid, "--on", "ray", "--address", cluster)
    wide[wide.index("--threads") + 1] = "2"
    refused = subprocess.run(wide, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "computes with 2 threads, but the largest node of the Ray cluster" in refused.stderr
    assert not (tmp_path / "wide").exists()


@with_ray
@pytest.mark.long
def test_a_cluster_of_this_machine_is_started_when_no_address_is_given(tmp_path: Path, base: Run) -> None:
    done = subprocess.run(
        command(base, tmp_path / "o", "--grid", "weights=8", "--on", "ray", "--jobs", "1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(attempts(tmp_path / "o").values()) == [["finished"]]


@with_ray
def test_an_address_that_does_not_answer_is_one_sentence_after_a_while(
    tmp_path: Path, base: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "ANSWER_SECONDS", 2.0)
    with socket.socket() as silent:  # it takes the call and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(ValueError, match=f"no Ray cluster answers at '127.0.0.1:{port}' within 2 seconds"):
            sweep(["weights=8"], base, out=tmp_path / "o", on="ray", address=f"127.0.0.1:{port}", progress=False)
    with pytest.raises(ValueError, match=f"no Ray cluster answers at 'ray://127.0.0.1:{port}' .*refused"):
        sweep(["weights=8"], base, out=tmp_path / "o", on="ray", address=f"ray://127.0.0.1:{port}", progress=False)
    assert not (tmp_path / "o").exists()


def test_without_ray_it_says_what_to_install(tmp_path: Path, base: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--on ray wants Ray, which is not installed here: pip install 'penny"):
        sweep(["weights=8"], base, out=tmp_path / "o", on="ray", progress=False)
    assert not (tmp_path / "o").exists()


def test_ray_is_imported_in_one_file() -> None:
    users = {path.name for path in HOUSE.rglob("*.py") if re.search(r"^\s*(import|from) ray\b", path.read_text(), re.M)}
    assert users == {"on_ray.py"}
