"""Clients in a closed loop: each has a kept-alive connection and asks as soon as it has its answer."""

import http.client
import json
import threading
import time
from collections.abc import Callable

from .texts import mixed_text

# Longer than any server that is measured may take for one answer.
ANSWER_SECONDS = 180


def send(connection: http.client.HTTPConnection, method: str, path: str, body: dict | None) -> tuple[int, dict]:
    """Status and JSON of one exchange; a reply that is not JSON comes as its `text`."""
    payload = None if body is None else json.dumps(body)
    connection.request(method, path, payload, {"Content-Type": "application/json"} if payload else {})
    reply = connection.getresponse()
    text = reply.read()
    try:
        return reply.status, json.loads(text)
    except ValueError:
        return reply.status, {"text": text.decode(errors="replace")}


def request(port: int, method: str, path: str, body: dict | None = None) -> tuple[int, dict]:
    """One exchange on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        return send(connection, method, path, body)
    finally:
        connection.close()


def quantile(values: list[float], share: float) -> float:
    """The least value that at least `share` of all do not exceed; not a number of nothing."""
    if not values:
        return float("nan")
    return sorted(values)[max(0, -int(-len(values) * share // 1) - 1)]


class Load:
    """`clients` clients, until `requests` are sent, `seconds` have passed, or it is stopped."""

    def __init__(
        self,
        port: int,
        clients: int,
        requests: int,
        text: Callable[[int], str] = mixed_text,
        first: int = 0,
        path: str = "/analyze",
        seconds: float = float("inf"),
    ):
        self.answers: dict[str, int] = {}
        self.failures: list[str] = []
        self.times: list[float] = []
        self._lock, self._next, self._end = threading.Lock(), first, first + requests
        self._text, self._path, self._stopped = text, path, False
        self._clients = [threading.Thread(target=self._ask, args=(port,)) for _ in range(clients)]
        self._started = time.monotonic()
        self._until = self._started + seconds
        for client in self._clients:
            client.start()

    def _ask(self, port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
        while not self._stopped and time.monotonic() < self._until:
            with self._lock:
                number, self._next = self._next, self._next + 1
            if number >= self._end:
                break
            body = {"text": self._text(number)}
            started = time.monotonic()
            try:
                status, reply = send(connection, "POST", self._path, body)
            except (OSError, http.client.HTTPException) as error:
                status, reply = 0, {"error": repr(error)}
                connection.close()
                # Nobody listens any more: asking on would only make failures.
                self._stopped = self._stopped or isinstance(error, ConnectionRefusedError)
            self._note(status, reply, time.monotonic() - started)
        connection.close()

    def _note(self, status: int, reply: dict, seconds: float) -> None:
        with self._lock:
            if status != 200:
                self.failures.append(f"{status} {reply}")
                return
            reason = (reply.get("fallback") or {}).get("reason")
            model = reply.get("model")
            role = model["role"] if isinstance(model, dict) else "model"
            who = f"{role} ({reason})" if reason else role
            self.answers[who] = self.answers.get(who, 0) + 1
            self.times.append(seconds)

    def finish(self) -> "Load":
        """Waits for the last answers."""
        for client in self._clients:
            client.join()
        self.seconds = time.monotonic() - self._started
        return self

    def stop(self) -> "Load":
        """Sends no more, and waits for the answers that are due."""
        self._stopped = True
        return self.finish()

    def quantile_ms(self, share: float) -> float:
        """The time within which `share` of the requests were answered."""
        return quantile(self.times, share) * 1000
