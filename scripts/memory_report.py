"""Measures the server's memory in real limits, prints the figures and draws a server's life: memory_report.py.

Needs root and a writable memory cgroup. Reads the release build, onnx/ and lib/ of this checkout and
writes docs/memory.png.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from memory_server import ROOT, Load, MemoryGroup, Server, Settings, long_text

LIFE_LIMIT_MB = 512
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


def squeeze(server: Server, ballast: Ballast, start: int = 250, step: int = 5) -> None:
    """Takes more and more memory until the heavy model has to go, and leaves the rest."""
    for held in range(start, LIFE_LIMIT_MB, step):
        ballast.hold(held)
        time.sleep(0.06)
        if server.request("GET", "/health")[1]["roles"]["heavy"]["state"] in ("draining", "barred"):
            break
    # What the heavy model gave back would otherwise be taken again by what the light one needs.
    ballast.hold(max(0, held - 25))
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
            check(server, load)
            del light
            rows.append(megabytes(server))
        say(f"both ready, after {requests} mixed requests", rows[-1], "220 MB")
        say("the same after each quarter", "; ".join(rows), "no growth")
        burst = Load(server.port, 8, 40, long_text).finish()
        check(server, burst)
        after = megabytes(server)
        time.sleep(1)
        say("right after 40 long texts", after)


def first_answers(settings: Settings) -> None:
    def first(cold: bool) -> float:
        with Server(settings, cold=cold) as server:
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
            return load.p50_ms(), megabytes(server), faults

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
    with Server(settings, LIFE_LIMIT_MB, **variables) as server:
        ballast = Ballast(server.group)
        held = []
        for number in range(rounds):
            wait(lambda: server.request("POST", "/analyze", {"text": "hello"}) and role_is(server, "heavy", "ready"))
            load = Load(server.port, 4, 24, first=number * 100)
            squeeze(server, ballast)
            check(server, load.finish())
            ballast.hold(0)
            held.append(server.memory())
        ballast.process.kill()
        for figure in ("resident", "anonymous"):
            values = [f"{memory[figure]:.0f}" for memory in held]
            say(f"{figure} after each of {rounds} evictions, MB", " ".join(values), "within 10 of the first")


class Recorder:
    """Samples a process's memory ten times a second."""

    def __init__(self, memory):
        self.samples: list[tuple[float, float, float]] = []
        self.events: list[tuple[float, str]] = []
        self._memory, self._running, self._started = memory, True, time.monotonic()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while self._running:
            try:
                memory = self._memory()
            except (OSError, ValueError):
                break
            self.samples.append((time.monotonic() - self._started, memory["resident"], memory["anonymous"]))
            time.sleep(0.1)

    def note(self, event: str) -> None:
        self.events.append((time.monotonic() - self._started, event))

    def stop(self) -> None:
        self._running = False
        self._thread.join()


def life(settings: Settings) -> Recorder:
    """Start, first request, load, a burst of long texts, eviction, return, idle."""
    variables = {"HEAVY_RETRY_SECONDS": "2", "HEAVY_RETRY_MAX_SECONDS": "2", "MODEL_IDLE_SECONDS": "8"}
    with Server(settings, LIFE_LIMIT_MB, cold=True, **variables) as server:
        record = Recorder(server.memory)
        ballast = Ballast(server.group)
        time.sleep(3)
        record.note("first request")
        server.request("POST", "/analyze", {"text": "I am so happy"})
        time.sleep(2)
        record.note("load")
        loads = [Load(server.port, 8, 150).finish()]
        record.note("long texts")
        loads.append(Load(server.port, 8, 30, long_text).finish())
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
        ballast.process.kill()
    say("the life that is drawn", f"{len(record.samples)} samples, answers {steady.answers}, no failure, no kill")
    return record


def draw(path: Path, server: Recorder) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 5.5), dpi=110)
    times, resident, anonymous = zip(*server.samples, strict=True)
    axes.plot(times, resident, color="#1f5f8b", linewidth=2, label="emotion-server, resident")
    axes.plot(times, anonymous, color="#d1663c", linewidth=2, label="emotion-server, anonymous")
    axes.axhline(LIFE_LIMIT_MB, color="black", linestyle="--", linewidth=1)
    axes.text(0, LIFE_LIMIT_MB + 8, f"limit of the container, {LIFE_LIMIT_MB} MB", fontsize=9)
    for seconds, event in server.events:
        axes.axvline(seconds, color="#bbbbbb", linewidth=0.8, zorder=0)
        axes.text(seconds + 0.15, LIFE_LIMIT_MB - 12, event, rotation=90, va="top", fontsize=8, color="#444444")
    axes.set(xlabel="seconds since the start", ylabel="MB", ylim=(0, None), xlim=(0, server.samples[-1][0]))
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=3, frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/emotion-server")
    parser.add_argument("--models", type=Path, default=ROOT / "onnx")
    parser.add_argument("--library", type=Path, default=ROOT / "lib/libonnxruntime.so")
    parser.add_argument("--into", type=Path, default=ROOT / "target/memory-report", help="prepared weights and copies")
    parser.add_argument("--heavy", default="goemotions", help="the heavy model that is put under limits")
    parser.add_argument("--limits", type=int, nargs="*", default=[192, 160])
    parser.add_argument("--requests", type=int, default=10_000, help="mixed requests for the figure of both models")
    parser.add_argument("--png", type=Path, default=ROOT / "docs/memory.png")
    parser.add_argument("--only", nargs="*", choices=("ready", "many", "first", "limits", "evictions", "life"))
    arguments = parser.parse_args()
    settings = Settings(arguments.program, arguments.models, arguments.library, arguments.into)
    variables = {"PATH": os.environ["PATH"], "MODEL_DIR": str(settings.models), "MODEL_CACHE_DIR": str(settings.cache)}
    variables |= {"HEAVY_MODEL": arguments.heavy, "ONNXRUNTIME_LIBRARY": str(settings.library)}
    subprocess.run([settings.program, "prepare"], env=variables, check=True, stdout=subprocess.DEVNULL)
    print("| what | figure | to reach |\n| --- | --- | --- |")
    parts = {
        "ready": lambda: starting_and_ready(settings),
        "first": lambda: first_answers(settings),
        "limits": lambda: in_limits(settings, arguments.heavy, arguments.limits, 300),
        "evictions": lambda: evictions(settings, 20),
        "many": lambda: both_after_many(settings, arguments.requests),
    }
    for name, measure in parts.items():
        if not arguments.only or name in arguments.only:
            measure()
    if not arguments.only or "life" in arguments.only:
        server = life(settings)
        arguments.png.parent.mkdir(exist_ok=True)
        draw(arguments.png, server)
        print(f"\ndrawn: {arguments.png}")


if __name__ == "__main__":
    main()
