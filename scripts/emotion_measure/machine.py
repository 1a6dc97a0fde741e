"""What a measurement ran on: processor, cores, and versions."""

import os
import platform
from importlib import metadata
from pathlib import Path

VNNI = ("avx512_vnni", "avx_vnni")


def cpu_model(cpuinfo: str) -> str:
    """The processor's name in the text of /proc/cpuinfo; the architecture's where it has none."""
    names = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def vnni(cpuinfo: str) -> list[str]:
    """Which instructions for products of int8 the processor has."""
    flags = next((line.split(":", 1)[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return [name for name in VNNI if name in flags]


def described() -> str:
    """The machine in one line."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    instructions = " and ".join(vnni(cpuinfo)) or "no VNNI"
    busy = os.getloadavg()[0]
    return (
        f"{len(os.sched_getaffinity(0))} cores of {cpu_model(cpuinfo)} ({instructions}), "
        f"Linux {platform.release()}; load average before the first server {busy:.1f}"
    )


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of installed packages."""
    return {"Python": platform.python_version()} | {name: metadata.version(name) for name in packages}
