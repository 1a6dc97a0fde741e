"""Three servers behind a real HAProxy with deploy/haproxy.cfg: none of the requests is lost when servers die."""

import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from real_server import ROOT, Server

CLIENTS = 8
PATIENCE_SECONDS = 60
SETTINGS = {"USE_LIGHT_MODEL": "true", "INFERENCE_THREADS": "1", "CACHE_MB": "0", "ACCESS_LOG": "false"}
SETTINGS |= {"DRAIN_SECONDS": "5", "PRELOAD_MODELS": "light", "ADMIN_KEY": "of the operator"}


class Balancer:
    """HAProxy with the configuration that the project ships, before these servers."""

    def __init__(self, addresses: list[str]):
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.port, self._operators_port = (listener.getsockname()[1] for listener in listeners)
        # It takes over sockets that listen already, so that nobody else can take their ports.
        places = {name: f"fd@{s.fileno()}" for name, s in zip(("LISTEN", "OPERATORS"), listeners, strict=True)}
        servers = {f"SERVER_{number}": address for number, address in enumerate(addresses, 1)}
        self.process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(ROOT / "deploy" / "haproxy.cfg")],
            env={"PATH": os.environ["PATH"]} | places | servers,
            pass_fds=[listener.fileno() for listener in listeners],
        )
        for listener in listeners:
            listener.close()

    def value(self, name: str, **labels: str) -> float:
        """The sum of these samples of HAProxy's own figures."""
        url = f"http://127.0.0.1:{self._operators_port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as reply:
            families = text_string_to_metric_families(reply.read().decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        assert samples, f"HAProxy does not tell {name}"
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def answers_of(self, number: int) -> float:
        """How many requests this server has answered."""
        return self.value("haproxy_server_http_responses_total", proxy="emotion_servers", server=f"s{number}")

    def is_up(self, number: int) -> bool:
        """Whether HAProxy sends requests to this server."""
        labels = {"proxy": "emotion_servers", "server": f"s{number}", "state": "UP"}
        return self.value("haproxy_server_status", **labels) == 1

    def stop(self) -> None:
        """Ends HAProxy."""
        self.process.kill()
        self.process.wait()


class Load:
    """Clients that ask without a pause, and what came of it."""

    def __init__(self, port: int):
        self.answered = 0
        self.lost: list[str] = []
        self._port = port
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_SECONDS)
        while not self._stopping.is_set():
            body = json.dumps({"text": f"I am so happy about number {next(self._numbers)}!"})
            try:
                connection.request("POST", "/analyze", body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                text = reply.read().decode()
                answered = reply.status == 200 and json.loads(text)["emotion"] == "joy"
                lost = None if answered else f"{reply.status} {text}"
            except (OSError, http.client.HTTPException) as error:
                lost = repr(error)
                connection.close()
            with self._lock:
                self.answered += lost is None
                self.lost += [lost] if lost else []
        connection.close()

    def stop(self) -> None:
        """Lets requests under way end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)


def wait_until(what: str, condition) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen within {PATIENCE_SECONDS} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def servers():
    """Three servers; a test may end them and put others in their place."""
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    running = [Server(**SETTINGS) for _ in range(3)]
    yield running
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def balancer(servers):
    """HAProxy that sends requests to all of them."""
    running = Balancer([server.address for server in servers])
    wait_until("the start", lambda: all(running.is_up(number) for number in (1, 2, 3)))
    yield running
    running.stop()


@pytest.fixture
def load(balancer):
    """Requests that go on during the test."""
    running = Load(balancer.port)
    yield running
    running.stop()


def end_and_start_again(servers, balancer, load, number, end) -> None:
    """Ends one server while requests come, starts it again, and waits until it has its part of the work."""
    old = servers[number - 1]
    wait_until(f"work for s{number}", lambda: load.answered > 100 and balancer.is_up(number))
    end(old)
    before = load.answered
    wait_until(f"work without s{number}", lambda: load.answered > before + 100 and not balancer.is_up(number))
    servers[number - 1] = Server(**SETTINGS | {"PORT": str(old.port)})
    done = balancer.answers_of(number)
    wait_until(f"work for the new s{number}", lambda: balancer.answers_of(number) > done + 20)


def test_no_request_is_lost_when_servers_are_killed(servers, balancer, load):
    for number in (1, 2, 3):
        end_and_start_again(servers, balancer, load, number, Server.stop)
    load.stop()
    assert load.lost == []
    redispatched = balancer.value("haproxy_backend_redispatch_warnings_total", proxy="emotion_servers")
    assert redispatched > 0, "no request was under way at a server that was killed"
    print(f"{load.answered} requests answered, {redispatched:.0f} of them by another server than the first")


def test_no_request_is_lost_when_servers_are_restarted(servers, balancer, load):
    def restart(server):
        assert server.terminate() == 0
        assert not [line for line in server.log if "were cut" in line]

    for number in (1, 2, 3):
        end_and_start_again(servers, balancer, load, number, restart)
    load.stop()
    assert load.lost == []
    print(f"{load.answered} requests answered")


def status_of(port: int, path: str, method: str = "POST") -> int:
    """The status of an operator's order, with a path that is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    headers = {"Content-Type": "application/json", "X-API-Key": SETTINGS["ADMIN_KEY"]}
    connection.request(method, path, "{}" if method == "POST" else None, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_orders_of_operators_do_not_pass_the_balancer(servers, balancer):
    # Orders in each spelling that a server reads as such.
    for path in (
        "/admin/models/light/load",
        "/%61dmin/models/light/load",
        "/admi%6E/models/light/load",
        "/admi%6e/models/light/load",
        "/%61%64%6d%69%6e/models/light/%6coad",
        "/v2/repository/models/light/load",
        "/v2/%72epository/models/light/load",
        "/v2/repository/mode%6cs/light/load",
    ):
        assert status_of(servers[0].port, path) == 200, path
        assert status_of(balancer.port, path) == 403, path
    # Spellings that another proxy or server might read so.
    for path in (
        "//admin/models/light/load",
        "/./admin/models/light/load",
        "/.//./admin/models/light/load",
        "/%2e/admin/models/light/load",
        "/x/../admin/models/light/load",
        "/%2fadmin/models/light/load",
        "/%2561dmin/models/light/load",
        "/admin%2fmodels/light/load",
        "/admin//models/light/load",
        "/ADMIN/models/light/load",
        "/v2//repository/models/light/load",
        "/v2/./repository/./models/light/load",
        "/v2/x/../repository/models/light/load",
        "/v2/repository%2Fmodels/light/load",
        "/v2/%2572epository/models/light/load",
        "/admin/models/light/load?x=%zz",
        "/%zz/../admin/models/light/load",
        f"http://127.0.0.1:{balancer.port}/%61dmin/models/light/load",
    ):
        assert status_of(balancer.port, path) == 403, path
    for path, method in (("/models", "GET"), ("/v2/repository/index", "POST"), ("/v2/models/a%20b%25", "GET")):
        assert status_of(balancer.port, path, method) == (404 if "%" in path else 200), path
