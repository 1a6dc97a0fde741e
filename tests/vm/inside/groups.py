"""Control groups of version 2, and a neighbour in them that holds as much memory as it is told to."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MB = 1 << 20
HYBRID = Path("/sys/fs/cgroup/unified")
ROOT = HYBRID if HYBRID.is_dir() else Path("/sys/fs/cgroup")


def fields(text: str) -> dict[str, int]:
    """The numbers of a file whose lines are a name and a number."""
    return {name: int(number) for name, number in (line.split()[:2] for line in text.splitlines())}


class Group:
    """One group; gone, with what runs in it, when left."""

    def __init__(self, name: str, **limits: str):
        """Limits are named after their files: memory_max="512M" writes memory.max."""
        self.folder = ROOT / name
        self.folder.mkdir()
        self.set(**limits)

    def set(self, **limits: str) -> None:
        for name, value in limits.items():
            (self.folder / name.replace("_", ".")).write_text(value)

    def share(self, *controllers: str) -> None:
        """Lets groups below this one have limits of their own."""
        (self.folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))

    def read(self, name: str) -> str:
        return (self.folder / name).read_text().strip()

    def kills(self) -> int:
        return fields(self.read("memory.events"))["oom_kill"]

    def usage_bytes(self) -> int:
        return int(self.read("memory.current"))

    def unreclaimable_bytes(self) -> int:
        """What the kernel cannot take back, from its own figures."""
        held = fields(self.read("memory.stat"))
        return held["anon"] + held["shmem"] + held["kernel"] - held["slab_reclaimable"] + held["sock"]

    @contextmanager
    def most_unreclaimable(self) -> Iterator[list[int]]:
        """Yields a list of one number: the most that was unreclaimable so far, looked at five times a second."""
        most, over = [self.unreclaimable_bytes()], threading.Event()

        def look() -> None:
            while not over.wait(0.2):
                most[0] = max(most[0], self.unreclaimable_bytes())

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield most
        finally:
            over.set()
            watcher.join()

    def processes(self) -> list[int]:
        return [int(pid) for pid in self.read("cgroup.procs").split()]

    def start(self, command: list[str], **options) -> subprocess.Popen:
        """Starts a command in the group."""
        enter = ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.folder / "cgroup.procs")]
        return subprocess.Popen([*enter, *command], **options)

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_) -> None:
        (self.folder / "cgroup.kill").write_text("1")
        for _ in range(200):
            try:
                return os.rmdir(self.folder)
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{self.folder} cannot be removed: something in it does not end")


HOLD = """
import sys
held = []
for line in sys.stdin:
    wanted = int(line)
    del held[wanted:]
    held += [bytearray(b"1" * 2**20) for _ in range(wanted - len(held))]
    print(wanted, flush=True)
"""


class Neighbour:
    """A process of its own in a group; ended when left."""

    def __init__(self, group: Group):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = group.start(["python3", "-c", HOLD], **pipes)
        self.hold(0)

    def hold(self, megabytes: int) -> None:
        self.process.stdin.write(f"{megabytes}\n")
        self.process.stdin.flush()
        if self.process.stdout.readline().strip() != str(megabytes):
            raise RuntimeError(f"the neighbour ended before it held {megabytes} MB")

    def __enter__(self) -> "Neighbour":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait(10)
