"""Processes that train and are killed: one interpreter that imports torch once and forks the others.

`python -m tests.crashes FOLDER` reads FOLDER/plan.json {"seed", "trials", "watched", "runs"} and leaves

    FOLDER/whole            the store of a process that nobody disturbed
    FOLDER/<trial>          one of a process that was killed at a random moment and of one that followed
    FOLDER/report.json      for each trial: after how many written files, whether a checkpoint was left,
                            and from which steps the second process went on
    FOLDER/overlap          a store that two processes filled at once; overlap.txt has a line per training

The parent neither computes with torch nor reads a table: a fork after either is not safe.
"""

import json
import logging
import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import filelock  # noqa: F401  (the children find it loaded)
import pyarrow.parquet  # noqa: F401
import torch

from lmbench.config import from_dict
from lmbench.run import Run
from lmbench.store import Store
from lmbench.tasks.base import load_task
from lmbench.training import execute, filing

PATIENCE_S = 60.0  # after which a process is stuck
HOW = {"device": "cpu", "progress": False, "checkpoint_seconds": 0}


def fork(work: Callable[[], object]) -> int:
    """The id of a child that does the work and ends with status 0 if that succeeds."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def reap(pid: int) -> int:
    """The exit status of a child that has ended or is about to."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Fed:
    """A child that trains runs into a store, and says so after each file that it has forced to disk."""

    def __init__(self, runs: list[Run], root: Path) -> None:
        self.heard, told = os.pipe()

        def work() -> None:
            honest = os.fsync

            def fsync(file: int) -> None:
                honest(file)
                os.write(told, b".")

            os.fsync = fsync
            execute.run_all(runs, store=Store(root), group=2, **HOW)

        self.pid = fork(work)
        os.close(told)

    def hear(self) -> bool:
        """Wait for the next file; False once the child has ended."""
        if not select.select([self.heard], [], [], PATIENCE_S)[0]:
            os.kill(self.pid, signal.SIGKILL)
            raise TimeoutError(f"a training process wrote nothing for {PATIENCE_S:g} s")
        return bool(os.read(self.heard, 1))

    def kill(self) -> int:
        """The exit status: that of the signal, or of a child that was faster."""
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.heard)
        return reap(self.pid)


def follow(runs: list[Run], root: Path) -> int:
    """Start the process that finishes what another left, keeping its log."""

    def work() -> None:
        logging.basicConfig(filename=f"{root}.log", level=logging.INFO)
        execute.run_all(runs, store=Store(root), group=2, **HOW)

    return fork(work)


def trial(runs: list[Run], root: Path, *, files: int, delay: float, is_watched: bool) -> dict:
    """Kill one process after it wrote so many files and some more seconds; let another finish.

    Args:
        is_watched: the other one starts before the kill, and waits for the locks.
    """
    first, second = Fed(runs, root), None
    for _ in range(files):
        first.hear()
        # Not before: the two would share out the runs of a group.
        if is_watched and second is None and list(root.glob("checkpoints/*/state.safetensors")):
            second = follow(runs, root)
    select.select([], [], [], delay)
    was_killed = first.kill() == -signal.SIGKILL
    left = [str(path.parent.name) for path in root.glob("checkpoints/*/state.safetensors")]
    finished = len(list(root.glob("runs/*/done")))
    second = follow(runs, root) if second is None else second
    assert reap(second) == 0
    log = Path(f"{root}.log").read_text()
    went_on = [int(line.split("from step ")[1].split()[0]) for line in log.splitlines() if "going on" in line]
    return {
        "files": files,
        "delay": delay,
        "was_killed": was_killed,
        "left": left,
        "finished": finished,
        "went_on": went_on,
    }


def overlap(runs: list[Run], folder: Path) -> list[int]:
    """Two processes at once, given overlapping sets; each waits in its first training for the other's."""
    pipes, start, said = [os.pipe(), os.pipe()], os.pipe(), folder / "overlap.txt"
    honest = filing.train_group

    def work(at: int, given: list[Run]) -> None:
        met = []

        def train(members: list[Run], **how: object) -> list:
            with said.open("a") as file:
                file.write("".join(f"{at} {run.digest}\n" for run in members))
            if not met:
                met.append(True)
                os.write(pipes[at][1], b".")
                assert select.select([pipes[1 - at][0]], [], [], PATIENCE_S)[0]
            return honest(members, **how)

        filing.train_group = train
        os.close(start[1])
        os.read(start[0], 1)  # both set off when the parent closes the pipe
        execute.run_all(given, store=Store(folder / "overlap"), group=3, **HOW)

    children = [fork(lambda: work(0, runs[:3])), fork(lambda: work(1, runs[1:]))]
    os.close(start[1])
    return [reap(pid) for pid in children]


def main(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    torch.set_num_threads(1)
    runs = [from_dict("run", run) for run in plan["runs"]]
    load_task(runs[0].task)
    began, files, whole = time.monotonic(), 0, Fed(runs[:3], folder / "whole")
    while whole.hear():
        files += 1
    assert reap(whole.pid) == 0
    each, draw, trials = (time.monotonic() - began) / files, random.Random(plan["seed"]), []
    for at in range(plan["trials"]):
        is_watched = at < plan["watched"]
        # A watched one trains the group only; the other takes the run beside it.
        few, most = (files // 4, files // 2) if is_watched else (1, files - 1)
        moment = {"files": draw.randint(few, most), "delay": draw.uniform(0, each)}
        trials.append(trial(runs[:3], folder / str(at), is_watched=is_watched, **moment))
    statuses = overlap(runs, folder)
    report = {"files": files, "trials": trials, "overlap": statuses}
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
