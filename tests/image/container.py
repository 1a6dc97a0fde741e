"""Starts programs in an image's files as a container engine would: a read-only root, a user without rights, a
process tree of its own, and a memory limit. Needs root, buildah and a memory cgroup that can be written."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

MB = 1 << 20
PATIENCE_SECONDS = 120
CGROUPS = Path("/sys/fs/cgroup")
# Arguments: root folder, cgroup.procs, folder for the volume or nothing, cpuinfo or nothing, user, program.
ENTER = """
set -eu
root=$1 group=$2 volume=$3 cpuinfo=$4 user=$5
shift 5
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
if [ -n "$cpuinfo" ]; then mount --bind "$cpuinfo" "$root/proc/cpuinfo"; fi
mount --rbind /sys "$root/sys"
mount -t tmpfs -o size=64k,mode=755 tmpfs "$root/dev"
for device in null zero urandom; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
if [ -n "$volume" ]; then mount --bind "$volume" "$root/var/cache/emotion-server"; fi
echo 0 > "$group"
exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$root" "$@"
"""


class MemoryGroup:
    """A cgroup with a memory limit, of version 1 or 2."""

    def __init__(self, limit_mb: int):
        self._is_v1 = (CGROUPS / "memory" / "memory.limit_in_bytes").is_file()
        self.folder = (CGROUPS / "memory" if self._is_v1 else CGROUPS) / f"emotion-image-{os.getpid()}-{time.time_ns()}"
        self.folder.mkdir()
        self._write("memory.limit_in_bytes" if self._is_v1 else "memory.max", limit_mb * MB)
        if not self._is_v1:
            self._write("memory.swap.max", 0)

    def _write(self, file: str, value: int) -> None:
        (self.folder / file).write_text(str(value), encoding="ascii")

    @property
    def kills(self) -> int:
        """How often the kernel has killed in this group."""
        told = (self.folder / ("memory.oom_control" if self._is_v1 else "memory.events")).read_text(encoding="ascii")
        return int(re.search(r"^oom_kill (\d+)$", told, re.MULTILINE)[1])

    @property
    def peak_bytes(self) -> int:
        """Most memory that the group has used, page cache included."""
        return int((self.folder / ("memory.max_usage_in_bytes" if self._is_v1 else "memory.peak")).read_text())

    def remove(self) -> None:
        """Removes the group once its processes are gone."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self.folder.exists():
            try:
                self.folder.rmdir()
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)


class Image:
    """The files and the settings of an image, in a container of buildah's that is removed in the end."""

    def __init__(self, name: str):
        self._container = buildah("from", name)
        self.root = Path(buildah("mount", self._container))
        described = json.loads(buildah("inspect", "--type", "image", name))
        self.config = described["Docker"]["config"]
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

    def start(
        self,
        arguments: Sequence[str],
        group: MemoryGroup,
        volume: Path | None = None,
        cpuinfo: Path | None = None,
        **variables: str,
    ) -> subprocess.Popen:
        """Starts a program of the image as its user, with its variables and those given."""
        places = [str(self.root), str(group.folder / "cgroup.procs"), str(volume or ""), str(cpuinfo or "")]
        command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", ENTER, "enter"]
        return subprocess.Popen(
            command + places + [self.config["User"], *arguments],
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def remove(self) -> None:
        """Removes the container, not the image."""
        buildah("rm", self._container)


class ImageServer:
    """What the image starts when nothing is said, on a free port."""

    def __init__(self, image: Image, group: MemoryGroup, **places: Path | None):
        self._process = image.start(image.config["Entrypoint"] + image.config["Cmd"], group, PORT="0", **places)
        self.log = ""
        self.port = 0
        self._listening = threading.Event()
        threading.Thread(target=self._read_log, daemon=True).start()
        if not self._listening.wait(PATIENCE_SECONDS) or not self.port:
            self.stop()
            raise RuntimeError(f"the server does not listen:\n{self.log}")

    def _read_log(self) -> None:
        for line in self._process.stderr:
            self.log += line
            if found := re.search(r"listening on \S+:(\d+)", line):
                self.port = int(found[1])
                self._listening.set()
        self._listening.set()

    def terminate(self) -> int:
        """Asks the container's first process to stop, and returns its exit code."""
        self._signal(signal.SIGTERM)
        return self._process.wait(PATIENCE_SECONDS)

    def stop(self) -> None:
        """Ends the server, if it still runs."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
            self._process.wait(PATIENCE_SECONDS)

    def _signal(self, number: int) -> None:
        """Signals the one child of unshare, which all others end with."""
        pid = self._process.pid
        os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")), number)


def buildah(*arguments: str) -> str:
    """What buildah writes."""
    return subprocess.run(["buildah", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
