"""One line of the doctor's report."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]
MARKS: dict[Status, str] = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is, and what to do about it."""

    status: Status
    name: str
    detail: str
    remedy: str = ""
    """What to do; empty where nothing is wrong."""
