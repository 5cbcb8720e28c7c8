"""The arena for CPU tensors, each time in a process of its own: it stays for as long as the process."""

import os
import subprocess
import sys
import textwrap

import pytest

from pennyweight.kernels import compiled

BEGIN = """
import resource, torch
from pathlib import Path
from pennyweight.kernels import trim_arena, use_arena

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

"""
MB = 1 << 20


@pytest.fixture(autouse=True)
def _compiled() -> None:
    if (why := compiled.missing()) is not None:
        pytest.skip(why)


def run(code: str, **settings: str) -> list[str]:
    """What a fresh process that may use the arena prints."""
    command = [sys.executable, "-c", BEGIN + textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_tensors_keep_what_is_written_in_them_whatever_comes_and_goes() -> None:
    code = """
        import random
        assert use_arena()
        random.seed(0)
        held = {}
        for number in range(4000):
            if len(held) > 40 or (held and random.random() < 0.45):
                value = random.choice(list(held))
                tensor = held.pop(value)
                assert tensor.eq(value).all(), value
                if random.random() < 0.1:
                    trim_arena()
            else:
                size = random.choice((1, 1000, 70_000, 100_001, 400_000)) + random.randrange(100)
                held[number] = torch.full((size,), number, dtype=torch.int32)
                assert held[number].data_ptr() % 64 == 0
        assert all(tensor.eq(value).all() for value, tensor in held.items())
        print("kept")
    """
    assert run(code) == ["kept"]


def test_the_lowest_hole_that_is_wide_enough_is_taken_and_neighbours_become_one() -> None:
    code = """
        assert use_arena()
        a, b, c, d = (torch.empty(1 << 20, dtype=torch.uint8) for _ in range(4))
        low, second = a.data_ptr(), b.data_ptr()
        assert second - low == 1 << 20
        del a, c
        e = torch.empty(100_000, dtype=torch.uint8)
        print(e.data_ptr() == low)
        del b
        f = torch.empty(2 << 20, dtype=torch.uint8)  # in what a's rest, b and c have left
        print(low < f.data_ptr() < d.data_ptr())
    """
    assert run(code) == ["True", "True"]


def test_a_second_pass_over_the_same_sizes_maps_nothing_new() -> None:
    code = """
        assert use_arena()
        for _ in range(3):
            before, held = faults(), [torch.ones(size) for size in (10_000_000, 3_000_000, 40_000)]
            del held
            print(faults() - before)
    """
    first, _, third = map(int, run(code))
    assert third < first / 4


def test_small_tensors_stay_where_they_were() -> None:
    code = """
        large = torch.empty(100_000)
        assert use_arena()
        arena = torch.empty(100_000).data_ptr()
        small = torch.empty(1000).data_ptr()
        print(abs(small - arena) > 1 << 30)
        del large  # made before: goes back to where it came from
        assert torch.empty(0).sum() == 0
    """
    assert run(code) == ["True"]


def test_trimming_gives_back_what_nobody_uses() -> None:
    code = f"""
        trim_arena()  # nothing happens before there is an arena
        assert use_arena()
        low, held = torch.ones({50 * MB}), torch.ones({10 * MB})
        del low
        before = resident()
        trim_arena()
        print((before - resident()) // {MB})
        assert held.eq(1).all()
        del held
        trim_arena()
        print((before - resident()) // {MB})
        assert torch.ones({60 * MB}).eq(1).all()
    """
    holes, everything = map(int, run(code))
    assert 195 <= holes <= 205
    assert 235 <= everything <= 245


def test_threads_and_forked_processes_allocate_too() -> None:
    code = """
        import os, threading
        assert use_arena()
        def work(number):
            for _ in range(300):
                tensor = torch.full((50_000,), number)
                assert tensor.eq(number).all()
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        [thread.start() for thread in threads]
        for _ in range(20):
            child = os.fork()
            if child == 0:
                torch.empty(100_000).fill_(1)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        [thread.join() for thread in threads]
        print("done")
    """
    assert run(code) == ["done"]


def test_without_addresses_there_is_no_arena_and_without_memory_torch_says_so() -> None:
    code = f"""
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        print(use_arena(), torch.ones({MB}).sum().item())
    """
    assert run(code) == ["False", f"{MB}.0"]
    code = f"""
        assert use_arena()
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
        try:
            torch.empty({1 << 30})
        except RuntimeError as error:
            print("allocate" in str(error))
        print(torch.ones({MB}).sum().item())
    """
    assert run(code) == ["True", f"{MB}.0"]


def test_without_kernels_there_is_none() -> None:
    assert run("print(use_arena()); trim_arena()", PENNYWEIGHT_KERNELS="off") == ["False"]


def test_the_profiler_counts_its_blocks() -> None:
    code = """
        assert use_arena()
        with torch.profiler.profile(profile_memory=True) as profile:
            torch.empty(1_000_000)
        print(max(event.cpu_memory_usage for event in profile.events()))
    """
    assert int(run(code)[-1]) == 4_000_000
