"""A server as a process of its own: started, waited for, asked, measured and stopped, all within bounds."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import load, processes

START_SECONDS = 180
STOP_SECONDS = 40
SCRIPTS = Path(__file__).resolve().parent.parent


class ServiceError(RuntimeError):
    """A server that does not start or answers what it should not; the message has the end of its log."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def python_service(module: str, *arguments: str, python: str = sys.executable) -> Callable[[int], list[str]]:
    """The command of one of this package's Python services, for a port."""
    return lambda port: [python, "-m", f"emotion_measure.{module}", *arguments, "--port", str(port)]


def python_environment() -> dict[str, str]:
    """What the Python services run in: nothing is fetched, nothing reported."""
    silent = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(SCRIPTS)}
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **silent}


class Service:
    """A running server; `command` gives its arguments for a port. `start` may start it elsewhere than here."""

    def __init__(self, command, environment: dict[str, str], log: Path, start=subprocess.Popen):
        self.port = free_port()
        self.log = log
        with log.open("w") as output:
            self.started = time.monotonic()
            self.process = start(command(self.port), env=environment, stdout=output, stderr=subprocess.STDOUT)

    def wait_until_listening(self, seconds: float = START_SECONDS) -> float:
        """Seconds from the process's start until it takes connections."""
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return time.monotonic() - self.started
            except OSError:
                pass
            if self.process.poll() is not None:
                raise ServiceError(f"the server ended with {self.process.returncode} before it listened\n{self.tail()}")
            if time.monotonic() - self.started > seconds:
                raise ServiceError(f"the server does not listen after {seconds:.0f} s\n{self.tail()}")
            time.sleep(0.005)

    def analyze(self, text: str) -> dict:
        """The reply to one text."""
        try:
            status, reply = load.request(self.port, "POST", "/analyze", {"text": text})
        except OSError as error:
            raise ServiceError(f"no answer: {error!r}\n{self.tail()}") from error
        if status != 200:
            raise ServiceError(f"{status} {reply}\n{self.tail()}")
        return reply

    def memory(self) -> dict[str, float]:
        """MB of the process and its children."""
        return processes.memory_of_tree(self.process.pid)

    def cpu_seconds(self) -> float:
        """CPU time of the process and its children so far."""
        return processes.cpu_seconds_of_tree(self.process.pid)

    def tail(self, lines: int = 30) -> str:
        """The end of the server's log."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return f"the end of {self.log}:\n" + "\n".join(f"    {line}" for line in text)

    def stop(self) -> None:
        """Asks the process to end, and ends it if it does not."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_SECONDS)

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_) -> None:
        self.stop()
