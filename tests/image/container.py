"""Runs an image in a real engine, podman with runc, with the options that docs/deploy.md tells people to use.

Needs root; containers.conf says how the engine works on a machine without systemd.
"""

import json
import os
import re
import subprocess
import time
from functools import cached_property
from pathlib import Path

MB = 1 << 20
LIMIT_MB = 512
PATIENCE_SECONDS = 120
RUN = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges")
RUN += (f"--memory={LIMIT_MB}m", "--publish=127.0.0.1::8080")
CGROUPS = Path("/sys/fs/cgroup")
os.environ["CONTAINERS_CONF"] = str(Path(__file__).with_name("containers.conf"))


class Image:
    """The files and the settings of an image."""

    def __init__(self, name: str):
        self.name = name
        self.root = Path(engine("image", "mount", name))
        [described] = json.loads(engine("image", "inspect", name))
        self.config = described["Config"]
        self.health_check = described["Healthcheck"]["Test"]
        self.environment = dict(setting.split("=", 1) for setting in self.config["Env"])

    def size_bytes(self) -> int:
        """Length of all files."""
        return sum(path.lstat().st_size for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())

    def drop_from_page_cache(self) -> None:
        """Forgets pages that other groups have paid for, so that a server reads its files itself."""
        for path in (self.root / "opt").rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)

    def release(self) -> None:
        """Lets the files go, not the image."""
        engine("image", "unmount", self.name)


def start_server(image: Image, *options: str) -> "ServerContainer":
    """What the image starts when no command is given, in 512 MB and from cold caches."""
    image.drop_from_page_cache()
    return ServerContainer(engine("run", "--detach", "--health-interval=disable", *RUN, *options, image.name))


class ServerContainer:
    """A container that was started with a server in it."""

    def __init__(self, name: str, port: int | None = None):
        self._name = name
        self._published_port = port
        until = time.monotonic() + PATIENCE_SECONDS
        while "listening on" not in self.log:
            if not self._inspect("State")["Running"] or time.monotonic() > until:
                self.remove()
                raise RuntimeError(f"the server does not listen:\n{self.log}")
            time.sleep(0.05)

    def _inspect(self, part: str) -> dict:
        [described] = json.loads(engine("container", "inspect", self._name))
        return described[part]

    @property
    def log(self) -> str:
        """Everything that the server has logged."""
        return engine("logs", self._name, stderr=subprocess.STDOUT)

    @cached_property
    def port(self) -> int:
        """Where the server is reached from outside; in a pod, where it was published."""
        return self._published_port or int(engine("port", self._name, "8080").rpartition(":")[2])

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Runs a command inside."""
        return subprocess.run(["podman", "exec", self._name, *command], capture_output=True, text=True, check=False)

    @cached_property
    def _group(self) -> tuple[Path, bool]:
        """The memory cgroup, and whether it is of version 1."""
        groups = Path(f"/proc/{self._inspect('State')['Pid']}/cgroup").read_text(encoding="ascii")
        if found := re.search(r"^\d+:memory:/(.*)$", groups, re.MULTILINE):
            return CGROUPS / "memory" / found[1], True
        return CGROUPS / re.search(r"^0::/(.*)$", groups, re.MULTILINE)[1], False

    @property
    def kills(self) -> int:
        """How often the kernel has killed for want of memory."""
        folder, is_v1 = self._group
        told = (folder / ("memory.oom_control" if is_v1 else "memory.events")).read_text(encoding="ascii")
        return int(re.search(r"^oom_kill (\d+)$", told, re.MULTILINE)[1])

    @property
    def peak_bytes(self) -> int:
        """Most memory that was used, page cache included."""
        folder, is_v1 = self._group
        return int((folder / ("memory.max_usage_in_bytes" if is_v1 else "memory.peak")).read_text(encoding="ascii"))

    def stop(self) -> int:
        """Sends SIGTERM, and returns the exit code."""
        engine("stop", f"--time={PATIENCE_SECONDS}", self._name)
        return self._inspect("State")["ExitCode"]

    def remove(self) -> None:
        """Removes the container with what it left."""
        engine("rm", "--force", "--volumes", self._name)


def engine(*arguments: str, stderr: int = subprocess.PIPE) -> str:
    """What the engine writes; its errors are in what is raised."""
    done = subprocess.run(["podman", *arguments], check=False, stdout=subprocess.PIPE, stderr=stderr, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"podman {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout.strip()
