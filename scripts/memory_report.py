"""Measures the server's memory in real limits, prints the figures and draws a server's life: memory_report.py.

Needs root and a writable memory cgroup. Reads the release build, onnx/ and lib/ of this checkout and
writes docs/memory.png. With --python-service CHECKPOINT a Python service of the same weights lives beside it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from emotion_measure.load import Load
from emotion_measure.texts import long_text, mixed_text
from memory_life import CLIENTS, LIFE_LIMIT_MB, LOAD_TEXTS, LONG_TEXTS, Recorder, draw, python_killed, python_life
from memory_server import ROOT, MemoryGroup, Server, Settings, cpu_controller

# What idle sessions keep from their runs goes back after one second.
GIVEN_BACK_SECONDS = 2

PREPARE_SECONDS = 600
# The watchdog reads often, so that a neighbour's memory grows little between two readings.
CHECK_INTERVAL = {"MEMORY_CHECK_INTERVAL_MS": "50"}
# Reads how many MB to hold, holds them, and says so.
BALLAST = """
import sys
held = []
for line in sys.stdin:
    wanted = int(line)
    del held[wanted:]
    held += [bytearray(b"1" * 2**20) for _ in range(wanted - len(held))]
    print(wanted, flush=True)
"""


def say(what: str, figure: str, target: str = "") -> None:
    print(f"| {what} | {figure} | {target} |", flush=True)


def megabytes(server: Server) -> str:
    memory = server.memory()
    return f"{memory['resident']:.0f} MB resident, {memory['anonymous']:.0f} MB anonymous"


def wait(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError("what the report waits for did not happen")
        time.sleep(0.02)


def role_is(server: Server, role: str, state: str) -> bool:
    return server.request("GET", "/health")[1]["roles"][role]["state"] == state


def check(server: Server, *loads: Load) -> None:
    """A figure of a server that failed is no figure."""
    failures = [failure for load in loads for failure in load.failures]
    if failures or server.group.kills():
        raise RuntimeError(f"{len(failures)} failures ({failures[:2]}), {server.group.kills()} kills")


class Ballast:
    """Anonymous memory in the server's group, held by a process of its own."""

    def __init__(self, group: MemoryGroup):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = group.start([sys.executable, "-c", BALLAST], dict(os.environ), **pipes)
        self.hold(0)

    def hold(self, megabytes: int) -> None:
        self.process.stdin.write(f"{megabytes}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)


def squeeze(server: Server, ballast: Ballast, start: int = 250, step: int = 5) -> None:
    """Takes more and more memory until the heavy model has to go, and keeps it."""
    for held in range(start, LIFE_LIMIT_MB, step):
        ballast.hold(held)
        time.sleep(0.06)
        if server.request("GET", "/health")[1]["roles"]["heavy"]["state"] in ("draining", "barred"):
            break
    wait(lambda: role_is(server, "heavy", "barred"))


def starting_and_ready(settings: Settings) -> None:
    with Server(settings, PRELOAD_MODELS="none") as server:
        time.sleep(1)
        say("resident, started, nothing loaded", megabytes(server), "30 MB")
        say("idle with nothing loaded", idle(server))
        server.request("POST", "/analyze", {"text": "I am so happy"})
        say("heavy ready, one text read", megabytes(server), "150 MB, 40 MB unreclaimable")
        say("idle with the heavy model ready", idle(server))


def idle(server: Server, seconds: int = 10) -> str:
    before = server.memory()["cpu_seconds"]
    time.sleep(seconds)
    return f"{(server.memory()['cpu_seconds'] - before) / seconds * 100:.1f} % of a core"


def both_after_many(settings: Settings, requests: int) -> None:
    with Server(settings, PRELOAD_MODELS="both") as server:
        wait(lambda: role_is(server, "heavy", "ready") and role_is(server, "light", "ready"))
        rows = []
        for part in range(4):
            load = Load(server.port, 8, requests // 4, first=part * requests).finish()
            light = Load(server.port, 8, requests // 40, first=part * requests, path="/analysis/emotion").finish()
            check(server, load, light)
            rows.append(megabytes(server))
        say(f"both ready, in the moment after {requests} mixed requests", rows[-1])
        say("the same after each quarter", "; ".join(rows), "no growth")
        # By then idle sessions have given back what their runs needed.
        time.sleep(GIVEN_BACK_SECONDS)
        say(f"the same {GIVEN_BACK_SECONDS} s later", megabytes(server), "220 MB")
        burst = Load(server.port, 8, 40, long_text).finish()
        check(server, burst)
        after = megabytes(server)
        time.sleep(GIVEN_BACK_SECONDS)
        say(f"in the moment after 40 long texts; {GIVEN_BACK_SECONDS} s later", f"{after}; {megabytes(server)}")


def first_answers(settings: Settings) -> None:
    def first(cold: bool, **options) -> float:
        with Server(settings, cold=cold, **options) as server:
            started = time.monotonic()
            status, reply = server.request("POST", "/analyze", {"text": "I am so happy"})
            if status != 200 or reply["model"]["role"] != "heavy":
                raise RuntimeError(f"{status} {reply}")
            return time.monotonic() - started

    say("first answer, prepared, warm page cache", f"{sorted(first(False) for _ in range(5))[2]:.2f} s", "0.5 s")
    say("first answer, prepared, cold page cache", f"{sorted(first(True) for _ in range(3))[1]:.2f} s")
    kept = settings.cache
    with tempfile.TemporaryDirectory(dir=kept.parent) as empty:
        settings.cache = Path(empty)
        say("first answer, not prepared, warm page cache", f"{first(False):.2f} s", "3 s")
    settings.cache = kept
    quarter = {"cpus": 0.25, "INFERENCE_THREADS": "1"}
    for cold in (False, True):
        what = f"first answer, prepared, {'cold' if cold else 'warm'} page cache, a quarter of a CPU"
        say(what, f"{first(cold, **quarter):.2f} s" if cpu_controller() else "skipped: no writable cpu cgroup")


def in_limits(settings: Settings, heavy: str, limits_mb: list[int], requests: int) -> None:
    """From cold caches; the unlimited run is repeated after each limit because other work makes times drift."""

    def run(limit_mb: int | None) -> tuple[float, Server, float]:
        with Server(settings, limit_mb, cold=True, HEAVY_MODEL=heavy) as server:
            warm_up = Load(server.port, 8, 60).finish()
            before = server.memory()
            load = Load(server.port, 8, requests, first=1000).finish()
            check(server, warm_up, load)
            if set(load.answers) | set(warm_up.answers) != {"heavy"}:
                raise RuntimeError(f"not only the heavy model answered: {load.answers} {warm_up.answers}")
            faults = (server.memory()["major_faults"] - before["major_faults"]) / requests
            return load.quantile_ms(0.5), megabytes(server), faults

    for limit_mb in limits_mb:
        first, held, faults = run(limit_mb)
        free, *_ = run(None)
        second, *_ = run(limit_mb)
        p50 = min(first, second)
        say(
            f"{heavy} under load in {limit_mb} MB, from cold caches",
            f"p50 {p50:.0f} ms, {p50 / free:.2f} times the unlimited one; {faults:.1f} major faults a text; {held}",
            "1.25 times at 192 MB",
        )


def evictions(settings: Settings, rounds: int) -> None:
    variables = {"HEAVY_RETRY_SECONDS": "1", "HEAVY_RETRY_MAX_SECONDS": "1", "PRELOAD_MODELS": "both"}

    def heavy_is_back(server: Server) -> bool:
        # A request brings the heavy model back once it may come.
        if not role_is(server, "heavy", "ready"):
            server.analyze("are you there?")
        return role_is(server, "heavy", "ready") and role_is(server, "light", "ready")

    with Server(settings, LIFE_LIMIT_MB, **variables, **CHECK_INTERVAL) as server:
        ballast = Ballast(server.group)
        held = []
        for number in range(rounds):
            wait(lambda: heavy_is_back(server))
            load = Load(server.port, 4, 24, first=number * 100)
            squeeze(server, ballast)
            check(server, load.finish())
            ballast.hold(0)
            # The kernel may have taken clean pages of the light model's weights; a few texts bring them back, so
            # that every round is measured with the same pages mapped.
            for index in range(8):
                server.request("POST", "/analyze", {"text": mixed_text(index), "model": "light"})
            # What is left a moment after the last text, when sessions have given back what their runs needed.
            time.sleep(1.5)
            held.append(server.memory())
        ballast.end()
    for figure in ("resident", "anonymous"):
        values = [memory[figure] for memory in held]
        shown = " ".join(f"{value:.0f}" for value in values)
        most = max(values) - values[0]
        say(f"{figure} after each of {rounds} evictions, MB", f"{shown}; {most:+.0f} at most", "within 10 of the first")


def life(settings: Settings) -> Recorder:
    """Start, first request, load, a burst of long texts, eviction, return, idle."""
    variables = {"HEAVY_RETRY_SECONDS": "2", "HEAVY_RETRY_MAX_SECONDS": "2", "MODEL_IDLE_SECONDS": "8"}
    with Server(settings, LIFE_LIMIT_MB, cold=True, **variables, **CHECK_INTERVAL) as server:
        record = Recorder(server.memory)
        ballast = Ballast(server.group)
        time.sleep(3)
        record.note("first request")
        server.request("POST", "/analyze", {"text": "I am so happy"})
        time.sleep(2)
        record.note("load")
        loads = [Load(server.port, CLIENTS, LOAD_TEXTS).finish()]
        record.note("long texts")
        loads.append(Load(server.port, CLIENTS, LONG_TEXTS, long_text).finish())
        record.note("a neighbour takes memory")
        steady = Load(server.port, 4, 10**6, first=10**6)
        squeeze(server, ballast, start=0, step=10)
        record.note("heavy model evicted")
        time.sleep(3)
        ballast.hold(0)
        wait(lambda: role_is(server, "heavy", "ready"))
        record.note("heavy model back")
        time.sleep(4)
        loads.append(steady.stop())
        record.note("nobody asks")
        check(server, *loads)
        wait(lambda: role_is(server, "heavy", "absent") and role_is(server, "light", "absent"))
        record.note("models unloaded")
        time.sleep(3)
        record.stop()
        ballast.end()
    say("the life that is drawn", f"{len(record.samples)} samples, answers {steady.answers}, no failure, no kill")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/emotion-server")
    parser.add_argument("--models", type=Path, default=ROOT / "onnx")
    parser.add_argument("--library", type=Path, default=ROOT / "lib/libonnxruntime.so")
    parser.add_argument("--into", type=Path, default=ROOT / "target/memory-report", help="prepared weights and copies")
    parser.add_argument("--heavy", default="goemotions", help="the heavy model that is put under limits")
    parser.add_argument("--limits", type=int, nargs="*", default=[192, 160])
    parser.add_argument("--requests", type=int, default=10_000, help="mixed requests for the figure of both models")
    parser.add_argument("--evictions", type=int, default=20, help="how many evictions in a row")
    parser.add_argument("--python-service", type=Path, metavar="CHECKPOINT",
                        help="draw FastAPI with transformers and these weights too (scripts/requirements-compare.txt)")
    parser.add_argument("--png", type=Path, default=ROOT / "docs/memory.png")
    parser.add_argument("--only", nargs="*", choices=("ready", "many", "first", "limits", "evictions", "life"))
    arguments = parser.parse_args()
    settings = Settings(arguments.program, arguments.models, arguments.library, arguments.into)
    variables = {"PATH": os.environ["PATH"], "MODEL_DIR": str(settings.models), "MODEL_CACHE_DIR": str(settings.cache)}
    variables |= {"HEAVY_MODEL": arguments.heavy, "ONNXRUNTIME_LIBRARY": str(settings.library)}
    prepare = [settings.program, "prepare"]
    subprocess.run(prepare, env=variables, check=True, stdout=subprocess.DEVNULL, timeout=PREPARE_SECONDS)
    print("| what | figure | to reach |\n| --- | --- | --- |")
    parts = {
        "ready": lambda: starting_and_ready(settings),
        "first": lambda: first_answers(settings),
        "limits": lambda: in_limits(settings, arguments.heavy, arguments.limits, 300),
        "evictions": lambda: evictions(settings, arguments.evictions),
        "many": lambda: both_after_many(settings, arguments.requests),
    }
    for name, measure in parts.items():
        if not arguments.only or name in arguments.only:
            measure()
    if not arguments.only or "life" in arguments.only:
        server, beside = life(settings), None
        if arguments.python_service:
            beside = python_life(arguments.python_service, settings.into)
            say(f"the Python service in {LIFE_LIMIT_MB} MB", python_killed(arguments.python_service, settings.into))
        arguments.png.parent.mkdir(exist_ok=True)
        draw(arguments.png, server, beside)
        print(f"\ndrawn: {arguments.png}")


if __name__ == "__main__":
    main()
