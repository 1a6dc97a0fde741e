"""A real server of this build in a process of its own, for tests in Python."""

import json
import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60
STOP_SECONDS = 60


class Server:
    """A running server; its settings are the defaults but for those given."""

    def __init__(self, **variables: str):
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        settings = {
            "PORT": "0",
            "MODEL_DIR": str(ROOT / "onnx"),
            "MODEL_CACHE_DIR": str(ROOT / "target" / "tmp" / "prepared"),
        }
        self.process = subprocess.Popen([program()], env=kept | settings | variables, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        self.port: int | None = None
        self._listening = threading.Event()
        threading.Thread(target=self._read_log, daemon=True).start()
        if not self._listening.wait(START_SECONDS) or self.port is None:
            self.stop()
            raise RuntimeError("the server does not listen:\n" + "".join(self.log))

    def _read_log(self) -> None:
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"listening on \S+:(\d+)", line)
            if found:
                self.port = int(found[1])
                self._listening.set()
        self._listening.set()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The bare address with its scheme."""
        return f"http://{self.address}"

    def terminate(self) -> int:
        """Asks the server to stop, as a container engine does, and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """Ends the server at once, if it still runs."""
        self.process.kill()
        self.process.wait()


def program() -> str:
    """The program of EMOTION_SERVER, or the one that was built last."""
    if "EMOTION_SERVER" in os.environ:
        return os.environ["EMOTION_SERVER"]
    built = [ROOT / "target" / profile / "emotion-server" for profile in ("debug", "release")]
    built = [path for path in built if path.is_file()]
    if not built:
        raise RuntimeError("there is no emotion-server in target: run cargo build first")
    return str(max(built, key=lambda path: path.stat().st_mtime))


def ask(url: str, body: object = None, key: str = "", method: str = "") -> tuple[int, object]:
    """Status and JSON of a request; a body makes it a POST."""
    headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method or ("GET" if body is None else "POST"))
    try:
        with urllib.request.urlopen(request, timeout=START_SECONDS) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal)
