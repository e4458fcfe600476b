"""One address asked over HTTP: the bytes that it serves, verified and cut, or what is wrong with it.

An address may serve more than a file, as one whole text of which a corpus has three parts; then the
manifest pins the hash of what is served and says where it is cut. What went wrong is told and not
raised, since another address may have the file.
"""

import os
import tempfile
from pathlib import Path

from lmbench.data.manifest import Source, mismatch


def download(source: Source, *, folder: Path, timeout_s: float) -> tuple[bytes, str]:
    """The bytes that an address serves (cut as it says), or what was wrong with them.

    Args:
        folder: for the part that is there while the rest is on its way; its name ends in ".part".
        timeout_s: seconds without a byte before the address is given up.

    Returns:
        The body and "", or nothing and what goes after the address in a sentence.
    """
    import pooch
    import requests

    handle, part = tempfile.mkstemp(prefix=".download-", suffix=".part", dir=folder)
    os.close(handle)
    try:
        pooch.HTTPDownloader(timeout=timeout_s)(source.url, part, None)
        body = Path(part).read_bytes()
    except requests.RequestException as error:
        return b"", _explain(error, timeout_s=timeout_s)
    finally:
        Path(part).unlink(missing_ok=True)
    if wrong := mismatch(body, (source.hash,)):
        return b"", f"is not the file: {wrong}"
    return (body if source.cut is None else body[slice(*source.cut)]), ""


def _explain(error: Exception, *, timeout_s: float) -> str:
    """What went wrong with an address, to stand after it in the sentence."""
    import requests

    told = str(error)
    if isinstance(error, requests.HTTPError):
        return f"answered {error.response.status_code} {error.response.reason}"
    if "IncompleteRead" in told:
        return "ended before the announced length (truncated)"
    # requests reports a stall inside the body as a ConnectionError, not as a Timeout.
    if isinstance(error, requests.Timeout) or "timed out" in told:
        return f"stalled: no byte for {timeout_s:g} s"
    if isinstance(error, requests.TooManyRedirects):
        return "redirects without end"
    return f"could not be reached ({type(error).__name__})"
