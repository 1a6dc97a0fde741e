"""Runs a server in a memory cgroup of its own: what memory_report.py measures with."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from emotion_measure import load, processes
from emotion_measure.service import Service, ServiceError

MB = 1 << 20
ROOT = Path(__file__).resolve().parent.parent
CPU_PERIOD_US = 100_000


class MemoryGroup:
    """A cgroup of its own; version 1 where the machine has its memory controller, else version 2."""

    def __init__(self, limit_mb: int | None, cpus: float | None = None):
        v1 = Path("/sys/fs/cgroup/memory")
        self.is_v1 = (v1 / "memory.limit_in_bytes").is_file()
        name = f"emotion-report-{os.getpid()}-{time.monotonic_ns()}"
        self.folder = (v1 if self.is_v1 else v1.parent) / name
        self.folders = [self.folder]
        self.folder.mkdir()
        if limit_mb is not None:
            self.set_limit(limit_mb)
        if cpus is not None:
            self._set_cpus(cpus, name)

    def set_limit(self, limit_mb: int) -> None:
        name = "memory.limit_in_bytes" if self.is_v1 else "memory.max"
        (self.folder / name).write_text(str(limit_mb * MB))

    def _set_cpus(self, cpus: float, name: str) -> None:
        quota_us = int(cpus * CPU_PERIOD_US)
        if not self.is_v1:
            (self.folder / "cpu.max").write_text(f"{quota_us} {CPU_PERIOD_US}")
            return
        folder = cpu_controller() / name
        folder.mkdir()
        self.folders.append(folder)
        (folder / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(str(quota_us))

    def start(self, command: list, env: dict[str, str], **options) -> subprocess.Popen:
        enter = "".join(f'echo $$ > "{folder}/cgroup.procs" && ' for folder in self.folders)
        return subprocess.Popen(["/bin/sh", "-c", f'{enter}exec "$0" "$@"', *map(str, command)], env=env, **options)

    def kills(self) -> int:
        return self._field("memory.oom_control" if self.is_v1 else "memory.events", "oom_kill")

    def usage_bytes(self) -> int:
        return int((self.folder / ("memory.usage_in_bytes" if self.is_v1 else "memory.current")).read_text())

    def _field(self, name: str, key: str) -> int:
        lines = (self.folder / name).read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == key)

    def remove(self) -> None:
        """Ends what still runs in the group, then the group."""
        for _ in range(100):
            for pid in (self.folder / "cgroup.procs").read_text().split():
                try:
                    os.kill(int(pid), 9)
                except ProcessLookupError:
                    pass
            try:
                while self.folders:
                    self.folders[-1].rmdir()
                    self.folders.pop()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{self.folder} cannot be removed: something in it does not end")


def cpu_controller() -> Path | None:
    """Where processor time can be limited: the folder of that controller; None where it cannot be."""
    v1 = Path("/sys/fs/cgroup/cpu")
    if (v1 / "cpu.cfs_quota_us").is_file() and os.access(v1, os.W_OK):
        return v1
    offered = v1.parent / "cgroup.subtree_control"
    if offered.is_file() and "cpu" in offered.read_text().split() and os.access(v1.parent, os.W_OK):
        return v1.parent
    return None


def drop_from_page_cache(*paths: Path) -> None:
    """Takes the files below the paths out of the page cache, where nobody maps them."""
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fdatasync(opened.fileno())
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class GroupedService(Service):
    """A server in a group of its own, with at most `limit_mb` of memory and `cpus` of processor time."""

    def __init__(self, command, environment, log: Path, limit_mb: int | None = None, cpus: float | None = None):
        self.group = MemoryGroup(limit_mb, cpus)
        super().__init__(command, environment, log, self.group.start)

    def memory(self) -> dict[str, float]:
        """The process's own memory in MB, what the group is charged with, and what the process took until now."""
        pid = self.process.pid
        return processes.memory(pid) | {
            "major_faults": processes.major_faults(pid),
            "cpu_seconds": processes.cpu_seconds(pid),
            "usage": self.group.usage_bytes() / MB,
        }

    def stop(self) -> None:
        super().stop()
        self.group.remove()


class Settings:
    """Which program, models and folders are measured. `INTO` keeps what a run makes."""

    def __init__(self, program: Path, models: Path, library: Path, into: Path):
        self.program, self.models = program.resolve(), models.resolve()
        self.into = into.resolve()
        self.cache = self.into / "prepared"
        self.library = self.into / library.resolve().name
        self.into.mkdir(parents=True, exist_ok=True)
        # A library that other processes map is not charged to the server's group: take one of our own.
        if not self.library.exists():
            shutil.copy(library.resolve(), self.library)


class Server(GroupedService):
    """The program in a group of its own, with the pages of its files not in memory yet when `cold`."""

    def __init__(
        self,
        settings: Settings,
        limit_mb: int | None = None,
        cold: bool = False,
        cpus: float | None = None,
        **variables: str,
    ):
        if cold:
            drop_from_page_cache(settings.models, settings.cache, settings.library.resolve(), settings.program)
        environment = {
            "PATH": os.environ["PATH"],
            "MODEL_DIR": str(settings.models),
            "MODEL_CACHE_DIR": str(settings.cache),
            "ONNXRUNTIME_LIBRARY": str(settings.library),
            "INFERENCE_THREADS": "2",
            **variables,
        }
        command = [settings.program, "serve", "--port"]
        super().__init__(lambda port: [*command, port], environment, settings.into / "server.log", limit_mb, cpus)
        try:
            self.wait_until_listening()
        except ServiceError:
            self.stop()
            raise

    def request(self, method: str, path: str, body: dict | None = None) -> tuple[int, dict]:
        return load.request(self.port, method, path, body)
