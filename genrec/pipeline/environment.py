"""What computes: versions, processor, memory, device."""

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

from genrec.artifacts import environment, git_commit

GIBIBYTE = 2**30


def describe_machine() -> dict[str, Any]:
    """Versions, processor, threads, memory and device of this process, for ``env.json`` and ``genrec doctor``."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "command": [Path(sys.argv[0]).name, *map(_without_home, sys.argv[1:])],
        "versions": environment(),
        "git_commit": git_commit(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory_bytes() / GIBIBYTE, 1),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
    }


def published(path: Path) -> str:
    """A path as it may be in what is shared: below the working folder, else its last two names."""
    path = Path(os.path.abspath(path))
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else Path(*path.parts[1:][-2:]))


def _without_home(argument: str) -> str:
    name, equals, value = argument.rpartition("=")
    return f"{name}{equals}{published(Path(value))}" if os.path.isabs(value) else argument


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Main memory that this process may use: that of the machine, or of its container where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return machine


def peak_memory_bytes() -> int:
    """The most memory that this process had at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
