"""The circumstances of a record: versions, device, threads, commit, memory. None of them is in a digest."""

import functools
import os
import platform
import resource
from pathlib import Path
from typing import Any

import torch

from lmbench.home import commit


def environment(device: torch.device, *, jobs: int = 1) -> dict[str, Any]:
    """Versions, device, threads and commit; `jobs` is how many runs shared the device."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "jobs": jobs,
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "load_average": os.getloadavg()[0],
    }


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}: {_processor()}"


@functools.cache
def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring the peak anew. On Linux the process's high-water mark can be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        try:
            clear.write_text("5")
        except OSError:
            return  # not permitted in some containers: the peak is then the process's


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of the device's allocator, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    scale = 1 if platform.system() == "Darwin" else 1024  # macOS reports bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
