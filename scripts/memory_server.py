"""Runs a server in a memory cgroup and loads it: what memory_report.py measures with."""

import http.client
import json
import os
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path

MB = 1 << 20
ROOT = Path(__file__).resolve().parent.parent
WORDS = (
    "I you we never always love hate this terrible wonderful morning game and but surprised thanks worried about "
    "friend angry proud because what today"
).split()


def mixed_text(number: int) -> str:
    """Mostly 5 to 40 words, one in twenty of 200 to 400 (up to about 500 tokens); no two are equal."""
    choice = random.Random(number)
    words = choice.randint(200, 400) if number % 20 == 19 else choice.randint(5, 40)
    return f"{number} " + " ".join(choice.choices(WORDS, k=words))


def long_text(number: int) -> str:
    """More than the model reads."""
    return f"{number} " + " ".join(random.Random(number).choices(WORDS, k=600))


class MemoryGroup:
    """A cgroup of its own; version 1 where the machine has its memory controller, else version 2."""

    def __init__(self, limit_mb: int | None):
        v1 = Path("/sys/fs/cgroup/memory")
        self.is_v1 = (v1 / "memory.limit_in_bytes").is_file()
        self.folder = (v1 if self.is_v1 else v1.parent) / f"emotion-report-{os.getpid()}-{time.monotonic_ns()}"
        self.folder.mkdir()
        if limit_mb is not None:
            self.set_limit(limit_mb)

    def set_limit(self, limit_mb: int) -> None:
        name = "memory.limit_in_bytes" if self.is_v1 else "memory.max"
        (self.folder / name).write_text(str(limit_mb * MB))

    def start(self, command: list, environment: dict[str, str], **options) -> subprocess.Popen:
        inside = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs")]
        return subprocess.Popen([*inside, *map(str, command)], env=environment, **options)

    def kills(self) -> int:
        return self._field("memory.oom_control" if self.is_v1 else "memory.events", "oom_kill")

    def usage_bytes(self) -> int:
        return int((self.folder / ("memory.usage_in_bytes" if self.is_v1 else "memory.current")).read_text())

    def _field(self, name: str, key: str) -> int:
        lines = (self.folder / name).read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == key)

    def remove(self) -> None:
        for _ in range(100):
            for pid in (self.folder / "cgroup.procs").read_text().split():
                os.kill(int(pid), 9)
            try:
                self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.05)


def drop_from_page_cache(*paths: Path) -> None:
    """Takes the files below the paths out of the page cache, where nobody maps them."""
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fdatasync(opened.fileno())
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Server:
    """The program in a group of its own, with the pages of its files not in memory yet when `cold`."""

    def __init__(self, settings: "Settings", limit_mb: int | None = None, cold: bool = False, **variables: str):
        self.settings = settings
        if cold:
            drop_from_page_cache(settings.models, settings.cache, settings.library.resolve(), settings.program)
        self.group = MemoryGroup(limit_mb)
        environment = {
            "PATH": os.environ["PATH"],
            "PORT": "0",
            "MODEL_DIR": str(settings.models),
            "MODEL_CACHE_DIR": str(settings.cache),
            "ONNXRUNTIME_LIBRARY": str(settings.library),
            "INFERENCE_THREADS": "2",
            **variables,
        }
        self.log: list[str] = []
        self.started = time.monotonic()
        self.process = self.group.start([settings.program], environment, stderr=subprocess.PIPE, text=True)
        self.port = self._port()
        threading.Thread(target=self._read_log, daemon=True).start()

    def _port(self) -> int:
        for line in self.process.stderr:
            self.log.append(line.rstrip())
            if "listening on" in line:
                return int(line.rsplit(":", 1)[1])
        raise RuntimeError("the server ended before it listened: " + " | ".join(self.log))

    def _read_log(self) -> None:
        for line in self.process.stderr:
            self.log.append(line.rstrip())

    def request(self, method: str, path: str, body: dict | None = None) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=180)
        try:
            return send(connection, method, path, body)
        finally:
            connection.close()

    def memory(self) -> dict:
        """The process's own memory, read from outside, in MB."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        field = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in rollup.splitlines()[1:]}
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return {
            "resident": field["Pss"],
            "anonymous": field["Anonymous"],
            "major_faults": int(stat[9]),
            "cpu_seconds": (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
            "usage": self.group.usage_bytes() / MB,
        }

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.group.remove()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop()


class Settings:
    """Which program, models and folders are measured. `INTO` keeps what a run makes."""

    def __init__(self, program: Path, models: Path, library: Path, into: Path):
        self.program, self.models = program.resolve(), models.resolve()
        self.cache = into.resolve() / "prepared"
        self.library = into.resolve() / library.resolve().name
        into.mkdir(parents=True, exist_ok=True)
        # A library that other processes map is not charged to the server's group: take one of our own.
        if not self.library.exists():
            shutil.copy(library.resolve(), self.library)


def send(connection: http.client.HTTPConnection, method: str, path: str, body: dict | None) -> tuple[int, dict]:
    payload = None if body is None else json.dumps(body)
    connection.request(method, path, payload, {"Content-Type": "application/json"} if payload else {})
    reply = connection.getresponse()
    text = reply.read()
    try:
        return reply.status, json.loads(text)
    except ValueError:
        return reply.status, {"text": text.decode(errors="replace")}


class Load:
    """`clients` clients, each with one request at a time, until `requests` are sent or it is stopped."""

    def __init__(self, port: int, clients: int, requests: int, text=mixed_text, first: int = 0, path: str = "/analyze"):
        self.answers: dict[str, int] = {}
        self.failures: list[str] = []
        self.times: list[float] = []
        self._lock, self._next, self._end = threading.Lock(), first, first + requests
        self._text, self._path, self._stopped = text, path, False
        self._clients = [threading.Thread(target=self._ask, args=(port,)) for _ in range(clients)]
        self._started = time.monotonic()
        for client in self._clients:
            client.start()

    def _ask(self, port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=180)
        while not self._stopped:
            with self._lock:
                number, self._next = self._next, self._next + 1
            if number >= self._end:
                break
            started = time.monotonic()
            try:
                status, body = send(connection, "POST", self._path, {"text": self._text(number)})
            except (OSError, http.client.HTTPException) as error:
                status, body = 0, {"error": repr(error)}
                connection.close()
            with self._lock:
                if status == 200:
                    reason = (body.get("fallback") or {}).get("reason")
                    model = body.get("model")
                    role = model["role"] if isinstance(model, dict) else "model"
                    who = f"{role} ({reason})" if reason else role
                    self.answers[who] = self.answers.get(who, 0) + 1
                    self.times.append(time.monotonic() - started)
                else:
                    self.failures.append(f"{status} {body}")
        connection.close()

    def finish(self) -> "Load":
        for client in self._clients:
            client.join()
        self.seconds = time.monotonic() - self._started
        return self

    def stop(self) -> "Load":
        self._stopped = True
        return self.finish()

    def p50_ms(self, last: int = 0) -> float:
        """Median time of a request, of the `last` ones only where that is given."""
        times = sorted(self.times[-last:])
        return times[len(times) // 2] * 1000 if times else float("nan")
