"""What the doctor says of the machine: device and threads, and the precision that its timing recommends."""

import os
import sys

import pytest
import torch

from lmbench import doctor
from lmbench.doctor import compute, precision
from lmbench.doctor.precision import Comparison, advice, compare
from lmbench.measure.flops import parameters
from lmbench.progress import Progress

FASTER = Comparison(float32_s=(0.038, 0.040, 0.042), bfloat16_s=(0.020, 0.020, 0.020))
SLOWER = Comparison(float32_s=(0.010, 0.010, 0.010), bfloat16_s=(0.020, 0.025, 0.020))


class Machine:
    """Programs whose steps take a known time on a clock of their own."""

    def __init__(self, **seconds):
        self.now, self.seconds, self.turns = 0.0, seconds, []

    def clock(self):
        return self.now

    def steps(self):
        def of(dtype):
            def take(n):
                self.turns.append((dtype, n))
                self.now += n * self.seconds[dtype]

            return take

        return {dtype: of(dtype) for dtype in self.seconds}

    def compare(self, warm_up=2):
        return compare(self.steps(), warm_up=warm_up, clock=self.clock)


# ------------------------------------------------------------------ precision


def test_the_speeds_are_compared_pair_by_pair():
    found = Machine(float32=0.5, bfloat16=0.25).compare()
    assert found.ratios == [2.0, 2.0, 2.0]
    assert found.float32_s == (0.5, 0.5, 0.5) and found.bfloat16_s == (0.25, 0.25, 0.25)


def test_the_programs_take_turns_and_each_goes_first_in_every_other_pair():
    machine = Machine(float32=0.5, bfloat16=0.25)
    machine.compare(warm_up=2)
    warm_up, once, pairs = machine.turns[:2], machine.turns[2:4], machine.turns[4:]
    assert warm_up == [("float32", 2), ("bfloat16", 2)]
    assert once == [("float32", 1), ("bfloat16", 1)]
    assert [dtype for dtype, _ in pairs] == [
        "bfloat16",
        "float32",
        "float32",
        "bfloat16",
        "bfloat16",
        "float32",
    ]


def test_fast_steps_are_timed_many_at_a_time_and_the_timing_ends_after_two_seconds():
    machine = Machine(float32=0.001, bfloat16=0.0005)
    found = machine.compare(warm_up=0)
    assert {n for _, n in machine.turns[4:]} == {80}, "0.08 s of the slower one"
    assert len(found.ratios) == 15, "15 pairs of 0.12 s are less than 2 s"
    machine = Machine(float32=0.16, bfloat16=0.08)
    assert len(machine.compare(warm_up=0).ratios) == 9, "the pair that passes 2 s is the last"


def test_a_timing_that_takes_longer_than_three_seconds_shows_its_progress(monkeypatch):
    opened = []

    class Watched(Progress):
        def __init__(self, total, unit, *, show):
            super().__init__(total, unit, show=False)
            opened.append((round(total, 6), show))

    monkeypatch.setattr(precision, "Progress", Watched)
    Machine(float32=0.02, bfloat16=0.01).compare(warm_up=2)
    assert opened.pop() == (0.09 + 15 * 0.12, False), "3 steps of each, then 15 pairs of 4"
    Machine(float32=1.0, bfloat16=0.5).compare(warm_up=2)
    assert opened.pop() == (4.5 + 3 * 1.5, True), "3 steps of each, then the fewest pairs"


def test_bfloat16_is_recommended_only_if_it_won_every_pair():
    assert FASTER.is_faster
    assert advice(FASTER) == (
        'bfloat16 is 2.00x [1.90, 2.10] float32 here: set dtype="bfloat16" for training; scoring stays '
        "float32 (40 and 20 ms a step of the published transformer, 3 repeats)"
    )
    assert advice(SLOWER).startswith('bfloat16 is 0.50x [0.40, 0.50] float32 here: keep dtype="float32"')
    undecided = Comparison(float32_s=(0.03, 0.03, 0.02), bfloat16_s=(0.02, 0.02, 0.02))
    assert 'bfloat16 is 1.50x [1.00, 1.50] float32 here: keep dtype="float32"' in advice(undecided)


def test_both_precisions_train_the_published_transformer_and_differ_in_nothing_else(tmp_path):
    runs = precision.runs_in(tmp_path)
    assert {dtype: run.dtype for dtype, run in runs.items()} == {"float32": "float32", "bfloat16": "bfloat16"}
    float32, bfloat16 = runs.values()
    assert float32.replace(dtype="bfloat16") == bfloat16
    assert (float32.model.name, parameters(float32.model).total) == ("transformer", 430_785)


def test_real_programs_are_timed(monkeypatch):
    monkeypatch.setattr(precision, "BUDGET_S", 0.0)
    found = precision.time_precisions(torch.device("cpu"))
    assert len(found.ratios) == precision.FEWEST
    assert min(found.float32_s + found.bfloat16_s) > 0


def test_a_device_that_cannot_be_timed_is_a_warning(monkeypatch):
    def refuse(device):
        raise RuntimeError("no kernel image is available\nmore")

    monkeypatch.setattr(precision, "time_precisions", refuse)
    check = compute.dtype()
    assert (check.status, check.detail.endswith("could not be timed: no kernel image is available")) == (
        "warn",
        True,
    )


# ------------------------------------------------------------------ device and threads


@pytest.fixture
def machine(monkeypatch):
    """A quiet Linux machine: `machine(threads=, cores=, load=, spin=)`."""

    def make(*, threads=2, cores=2, load=0.1, spin="10000"):
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
        monkeypatch.setattr("joblib.cpu_count", lambda: cores)
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        if spin is None:
            monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        else:
            monkeypatch.setenv("GOMP_SPINCOUNT", spin)
        return compute.threads()

    return make


def test_threads_are_stated_for_one_job_and_for_several(machine):
    check = machine(threads=16, cores=16)
    assert check.status == "ok"
    assert check.detail == (
        "16 for one job, 8 each for jobs=2, 1 each for jobs=16; 16 cores, load 0.1, GOMP_SPINCOUNT=10000"
    )
    assert machine().detail.startswith("2 for one job, 1 each for jobs=2; 2 cores")
    assert machine(threads=1).detail.startswith("1 for one job, and 1 for each of several; 2 cores")


def test_threads_that_spin_are_a_warning(machine):
    for spin in (None, "300000", "infinite"):
        check = machine(spin=spin)
        assert (check.status, "export GOMP_SPINCOUNT=10000" in check.remedy) == ("warn", True), spin
    assert machine(spin="0").status == "ok"


def test_more_threads_than_cores_are_a_warning(machine):
    check = machine(threads=64, cores=4)
    assert (check.status, "export OMP_NUM_THREADS=4" in check.remedy) == ("warn", True)


def test_a_busy_machine_is_a_warning(machine):
    check = machine(load=9.0)
    assert (check.status, "busy" in check.remedy) == ("warn", True)


def test_a_broken_device_fails_and_is_not_timed(monkeypatch):
    broken = doctor.Check("fail", "device", "torch 2.13", "check driver and torch build")
    monkeypatch.setattr(doctor, "torch_device", lambda: broken)
    monkeypatch.setattr(doctor, "dtype", lambda: pytest.fail("timed a broken device"))
    found = list(doctor.checks())
    assert broken in found and found[-1].name == "results"
