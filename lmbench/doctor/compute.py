"""What computes here: the device that torch sees, the threads of one and of several jobs, the precision.

Advice only: a run's dtype is a field of the run, and no trainer chooses it by itself.
"""

import os
import shutil
import sys

from lmbench.doctor.check import Check

MAX_SPIN = 10_000
"""Turns that a waiting thread may spin before it sleeps (see `lmbench.__init__`)."""


def torch_device() -> Check:
    """torch and the devices it sees."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    detail = f"torch {torch.__version__}, {', '.join(names) or 'no GPU'}"
    if names:
        try:
            torch.ones(1, device="cuda").add_(1)
        except RuntimeError as error:
            return Check(
                "fail", "device", f"{detail}: {str(error).splitlines()[0]}", "check driver and torch build"
            )
        return Check("ok", "device", detail)
    if shutil.which("nvidia-smi"):
        remedy = "this torch sees no GPU: remove .venv and run `make env` without TORCH_INDEX"
        return Check("warn", "device", detail, remedy)
    if torch.backends.mps.is_available():
        return Check("ok", "device", f"{detail}, MPS (ask for it with --device mps)")
    return Check("ok", "device", f"{detail} (smoke and quick presets are made for this)")


def threads() -> Check:
    """Threads for one job and for several, and the setting that keeps a busy neighbour from slowing them."""
    import joblib
    import torch

    # Unlike os.cpu_count this knows what a container or an affinity mask leaves to the process.
    n, cores, load = torch.get_num_threads(), joblib.cpu_count(), os.getloadavg()[0]
    spin = os.environ.get("GOMP_SPINCOUNT", "unset")
    detail = f"{share(n)}; {cores} cores, load {load:.1f}"
    if sys.platform == "linux":
        detail += f", GOMP_SPINCOUNT={spin}"
    if n > cores:
        remedy = f"export OMP_NUM_THREADS={cores}: threads without a core of their own wait for each other"
        return Check("warn", "threads", detail, remedy)
    if sys.platform == "linux" and (not spin.isdigit() or int(spin) > MAX_SPIN):
        slow = "beside other work, threads that spin longer are 30 times slower"
        remedy = f"export GOMP_SPINCOUNT={MAX_SPIN}: {slow}"
        return Check("warn", "threads", detail, remedy)
    if load > 1.5 * cores:
        return Check("warn", "threads", detail, "the machine is busy: timings will not mean much")
    return Check("ok", "threads", detail)


def share(n: int) -> str:
    """How `n` threads are divided: all for one job, whole shares for several."""
    if n == 1:
        return "1 for one job, and 1 for each of several"
    halves = f", {n // 2} each for jobs=2" if n > 3 else ""
    return f"{n} for one job{halves}, 1 each for jobs={n}"


def dtype() -> Check:
    """Which dtype to train in, from a timing on the device that is used when none is asked for."""
    from lmbench.doctor.precision import advice, time_precisions
    from lmbench.training.execute import default_device

    device = default_device()
    try:
        found = time_precisions(device)
    except RuntimeError as error:  # an old GPU without bfloat16, or one whose memory is full
        why = f"float32 and bfloat16 could not be timed: {str(error).splitlines()[0]}"
        return Check("warn", "dtype", why, 'keep dtype="float32" for training')
    return Check("ok", "dtype", advice(found))
