"""What went wrong, in one sentence with the remedy or the nearest valid name, as a user sees it."""

import difflib
import errno
from collections.abc import Iterable

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; set LMBENCH_HOME to a copy that can be written to",
    errno.EACCES: "permission denied; change the owner or the permissions of that file or folder",
    errno.EPERM: "permission denied; change the owner or the permissions of that file or folder",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away",
    errno.EEXIST: "a file stands where a folder is needed; move it away",
}


class NotebookFailed(RuntimeError):
    """A notebook did not run to its end. The message is one sentence."""


def sentence(error: Exception) -> str:
    """The message of an error on one line; an error of the operating system gets its remedy."""
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{_REMEDIES[error.errno]}"
    return " ".join(str(error).split()) or type(error).__name__


def nearest(name: str, accepted: Iterable[str]) -> str:
    """`" Did you mean 'x'?"`, or nothing when no accepted name is close."""
    close = difflib.get_close_matches(str(name), [str(a) for a in accepted], n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown(what: str, name: str, accepted: Iterable[str]) -> str:
    """The one sentence for a name that does not exist."""
    accepted = sorted(str(a) for a in accepted)
    return f"unknown {what} {name!r}; accepted: {', '.join(accepted) or 'none'}.{nearest(name, accepted)}"
