"""Checkpoints: the state of a group of runs in one file, written so that it is whole or not there.

    <store>/checkpoints/<group>/members.json      digests of the runs
                                state.safetensors weights, optimizer state, losses; the rest as JSON in
                                                  its header

Everything else that a run needs is a pure function of its config and the step: batches,
dropout masks, the schedule. So what is saved is small, and a run that was killed at any
moment ends, on a CPU with as many threads, in the same bits as one that was not.
"""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lmbench.folders import REMOVED
from lmbench.records import write_atomically, write_json
from lmbench.training.hashes import hash_of

FORMAT = 2  # since the terms of the objective are kept
STATE, MEMBERS = "state.safetensors", "members.json"


class Checkpoint:
    """The checkpoint of one group of runs.

    Args:
        folder: `checkpoints` of the store.
        members: digests of the group's runs, in the order of its replicas.
        every_seconds: between two of them; 0 writes one after each step.
        device: name of the hardware; on another one, whose dropout masks and seconds differ, the
            group does not go on but starts anew.
    """

    def __init__(
        self, folder: Path, members: Sequence[str], *, every_seconds: float, device: str = ""
    ) -> None:
        self.members, self.every_seconds, self.device = list(members), every_seconds, device
        name = hashlib.sha256("\n".join(self.members).encode()).hexdigest()[:16]
        self.folder = folder / name
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time to write one."""
        return time.monotonic() - self._last >= self.every_seconds

    def write(self, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Replace the last one.

        Args:
            rest: plain JSON values.
        """
        held = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
        text = json.dumps(rest)
        header = {"format": FORMAT, "torch": torch.__version__, "device": self.device}
        header |= {"rest": text, "sha256": hash_of(held, start=text)}
        self.name_members()
        write_atomically(self.folder / STATE, save(held, metadata={"lmbench": json.dumps(header)}))
        self._last = time.monotonic()

    def name_members(self) -> None:
        """Write down who trains together, which must be known before the first of them is finished.

        Should the process die before the last is, the others go on in the same company: replicas
        that are trained beside others agree with runs alone to rounding, but not in their last bits.
        """
        if not self.is_begun:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / MEMBERS, {"members": self.members})

    @property
    def is_begun(self) -> bool:
        """Whether the group has written down its members."""
        return _members(self.folder) == self.members

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was written last, or None where there is none.

        Raises:
            ValueError: the file is damaged, or of another format, torch or device.
        """
        path = self.folder / STATE
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["lmbench"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            made_by = header["format"], header["torch"], header["device"]
            text, sha256 = header["rest"], header["sha256"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"checkpoint {path} cannot be read ({error})") from None
        if made_by != (FORMAT, torch.__version__, self.device):
            raise ValueError(
                f"checkpoint {path} was written by torch {made_by[1]} in format {made_by[0]} on "
                f"{made_by[2]!r}; here are {torch.__version__}, {FORMAT} and {self.device!r}"
            )
        if sha256 != hash_of(tensors, start=text):
            raise ValueError(f"checkpoint {path} is damaged: its content differs from its sha256")
        return tensors, json.loads(text)

    def remove(self) -> None:
        """The group is finished, or starts anew.

        Renamed first: a process that dies among the files leaves what says that nobody needs it.
        """
        doomed = self.folder.with_name(self.folder.name + REMOVED)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(doomed, ignore_errors=True)
            self.folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def interrupted(
    folder: Path, wanted: Iterable[str], has: Callable[[str], bool] = lambda digest: False
) -> list[list[str]]:
    """Members of each group that was begun and not ended, and of which every run is wanted.

    Where groups overlap, which takes two calls for different sets of runs, the one that wrote last is
    taken: a run goes on in one group only.

    Args:
        wanted: digests, finished ones too.
        has: whether a run is finished. A group none of whose runs is goes on only if it left a state.
    """
    wanted, found = set(wanted), []
    for path in sorted(folder.glob(f"*/{MEMBERS}")):
        if path.parent.name.endswith(REMOVED):
            continue
        members, written = _members(path.parent), _written(path.parent)
        finished = sum(map(has, members))
        if set(members) <= wanted and finished < len(members) and (written or finished):
            found.append((written, members))
    groups, taken = [], set()
    for _, members in sorted(found, key=lambda one: one[0], reverse=True):
        if not taken & set(members):
            groups.append(members)
            taken |= set(members)
    return groups


def _members(folder: Path) -> list[str]:
    """Who trains together; nobody where the file is damaged, or its owner has just ended the group."""
    try:
        return list(json.loads((folder / MEMBERS).read_text())["members"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _written(folder: Path) -> int:
    """When the state was written, in nanoseconds; 0 where there is none."""
    try:
        return (folder / STATE).stat().st_mtime_ns
    except OSError:
        return 0
