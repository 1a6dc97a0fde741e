"""A real server in a control group, and requests to it."""

import itertools
import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

from groups import MB, Group

APP = Path("/srv/app")
PREPARED = Path("/srv/prepared")
# An emulated processor is slow: nothing here is to fail for want of time.
PATIENCE_SECONDS = 240
VARIABLES = {
    "PATH": os.environ["PATH"],
    "HOME": "/root",
    "PORT": "0",
    "MODEL_DIR": str(APP / "onnx"),
    "MODEL_CACHE_DIR": str(PREPARED),
    "MODEL_LOAD_TIMEOUT": str(PATIENCE_SECONDS),
    "REQUEST_TIMEOUT_MS": str(PATIENCE_SECONDS * 1000),
    "ACCESS_LOG": "false",
}
# Between two looks at something that is waited for.
LOOK_SECONDS = 0.1


class Gone(Exception):
    """The server ended, or what was waited for did not happen."""


def cool() -> None:
    """Takes every clean page out of the page cache."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


class Server:
    """Started in a group, or in none; ended when left."""

    def __init__(self, group: Group | None, wrapper: list[str] | None = None, **variables: str):
        """`wrapper` is a command that ends by running its arguments."""
        self.log = Path(f"/tmp/server-{time.monotonic_ns()}.log")
        command = [*(wrapper or []), str(APP / "emotion-server"), "serve"]
        with self.log.open("w") as log:
            options = {"env": VARIABLES | variables, "stderr": log, "stdout": subprocess.DEVNULL, "cwd": APP}
            self.process = group.start(command, **options) if group else subprocess.Popen(command, **options)
        self.port = self._wait_for_port()

    def _wait_for_port(self) -> int:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            for line in self.log.read_text().splitlines():
                if "listening on " in line:
                    return int(line.split("listening on ")[1].split()[0].rsplit(":", 1)[1])
            if self.process.poll() is not None:
                break
            time.sleep(LOOK_SECONDS)
        raise Gone(f"the server does not listen (exit code {self.process.poll()}): {self.last_lines()}")

    def last_lines(self, count: int = 12) -> str:
        return "\n".join(self.log.read_text().splitlines()[-count:])

    def request(self, path: str, body: dict | None = None) -> tuple[int, dict]:
        """Status and JSON of a reply; 0 and the reason where none came."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except (OSError, ValueError) as error:
            return 0, {"error": repr(error)}

    def ask(self, text: str, **more) -> str:
        """Who answered: `heavy`, `light (reason)`, or the failure."""
        status, reply = self.request("/analyze", {"text": text, **more})
        if status != 200:
            return f"failed: {status} {reply.get('error')}"
        fallback = reply["fallback"]
        return reply["model"]["role"] + (f" ({fallback['reason']})" if fallback else "")

    def health(self) -> dict:
        status, reply = self.request("/health")
        if status != 200:
            raise Gone(f"GET /health: {status} {reply} (exit code {self.process.poll()})\n{self.last_lines()}")
        return reply

    def memory(self) -> dict:
        return self.health()["memory"]

    def limit_mb(self) -> int | None:
        """The limit of the container, as the server sees it."""
        limit = self.memory()["container_limit_bytes"]
        return None if limit is None else limit // MB

    def role(self, name: str) -> dict:
        return self.health()["roles"][name]

    def wait_for(self, what: str, holds, seconds: float = PATIENCE_SECONDS) -> None:
        """Waits until `holds` is true of the server's health."""
        until = time.monotonic() + seconds
        while not holds(health := self.health()):
            if time.monotonic() > until:
                raise Gone(f"within {seconds:.0f} s there was not {what}: {health}\n{self.last_lines()}")
            time.sleep(LOOK_SECONDS)

    def wait_for_reading(self) -> None:
        """Waits until the memory watchdog has read twice: whatever is now, it knows."""
        time.sleep(0.6)

    def rest(self) -> None:
        """Waits until idle sessions have given back what their runs needed."""
        time.sleep(4)

    def threads(self, name: str) -> int:
        """How many of its threads have names that begin so."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum((task / "comm").read_text().startswith(name) for task in tasks)

    def http_workers(self) -> int:
        return self.threads("actix-rt|")

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.log.unlink()


class Load:
    """Clients that ask for one unknown text after the other, for all `texts`, or until stopped or left."""

    def __init__(self, server: Server, clients: int, texts: int | None = None):
        self.answers: Counter[str] = Counter()
        self._server, self._lock = server, threading.Lock()
        self._numbers = iter(range(texts)) if texts else itertools.count()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while True:
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            answer = self._server.ask(text(number))
            with self._lock:
                self.answers[answer] += 1

    def stop(self) -> Counter[str]:
        with self._lock:
            self._numbers = iter(())
        return self.finish()

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def finish(self) -> Counter[str]:
        """Who answered how often, once nobody asks any more."""
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
            if thread.is_alive():
                raise Gone(f"a request had no answer within {PATIENCE_SECONDS} s\n{self._server.last_lines()}")
        return self.answers


def counted(answers: Counter[str]) -> str:
    return ", ".join(f"{count} {who}" for who, count in sorted(answers.items()))


def text(number: int) -> str:
    """No two are equal; every twelfth is long."""
    words = "I was so happy that you came but then it went on and on until nobody was surprised any more".split()
    length = 240 if number % 12 == 11 else 5 + number * 7 % 30
    return f"{number}: " + " ".join(words[index % len(words)] for index in range(length))


def machine_mb() -> int:
    """Memory of the machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    raise Gone("the kernel does not tell the machine's memory")
