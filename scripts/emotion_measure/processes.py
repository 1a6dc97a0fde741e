"""Reads memory and CPU time of a process and its children from /proc."""

import os
import re
from pathlib import Path

# Libraries of CUDA that a build of torch brings, which a machine without such a device maps too.
CUDA = re.compile(r"nvidia|cuda|cudnn|cublas|nccl")
MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ ")


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int(_stat(int(folder.name))[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def memory(pid: int) -> dict[str, float]:
    """MB of one process, read from outside: proportional set size, and its anonymous part."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in rollup.splitlines()[1:]}
    return {"resident": fields["Pss"], "anonymous": fields["Anonymous"]}


def memory_of_tree(pid: int) -> dict[str, float]:
    """The same of a process and its children."""
    total = {"resident": 0.0, "anonymous": 0.0}
    for each in tree(pid):
        try:
            found = memory(each)
        except OSError:
            if each == pid:
                raise
            continue
        total = {name: total[name] + found[name] for name in total}
    return total


def major_faults(pid: int) -> int:
    """How often the process waited for a page from disk."""
    return int(_stat(pid)[9])


def cpu_seconds(pid: int) -> float:
    """CPU time of one process so far, all its threads."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds_of_tree(pid: int) -> float:
    """CPU time so far of a process, its children, and the children that have ended."""
    total = 0.0
    for each in tree(pid):
        try:
            total += sum(int(field) for field in _stat(each)[11:15]) / os.sysconf("SC_CLK_TCK")
        except OSError:
            if each == pid:
                raise
    return total


def cuda_mb(smaps: str) -> float:
    """MB (proportional) that a process's /proc/PID/smaps gives to mapped libraries of CUDA and to their zeroed data."""
    total, name = 0, ""
    for line in smaps.splitlines():
        if MAPPING.match(line):
            parts = line.split(None, 5)
            # A mapping without a name right after a library is that library's zeroed data.
            name = parts[5] if len(parts) > 5 else name
        elif line.startswith("Pss:") and CUDA.search(name):
            total += int(line.split()[1])
    return total / 1024


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (3 in proc(5) is 0 here)."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
