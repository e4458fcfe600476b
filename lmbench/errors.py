"""What went wrong, in one sentence with the remedy: every message that a user sees."""

import errno

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
