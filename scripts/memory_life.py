"""Records what servers hold over their lives, a Python service's too, and draws it: the picture of memory_report.py."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from emotion_measure.load import Load
from emotion_measure.service import ServiceError, python_environment, python_service
from emotion_measure.texts import long_text, mixed_text
from memory_server import GroupedService

LIFE_LIMIT_MB = 512
# Of a life: mixed texts of the load, texts of the burst of long ones, and clients of both.
LOAD_TEXTS, LONG_TEXTS, CLIENTS = 150, 30, 8
IDLE_SECONDS = 5
# Up to here the picture has one scale, above it another.
BREAK_MB = 560
RESIDENT, ANONYMOUS, PYTHON = "#1f5f8b", "#d1663c", "#6a7f3a"


class Recorder:
    """Samples a process's memory ten times a second."""

    def __init__(self, memory: Callable[[], dict[str, float]]):
        self.samples: list[tuple[float, float, float]] = []
        self.events: list[tuple[float, str]] = []
        self._memory, self._running, self._started = memory, True, time.monotonic()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while self._running:
            try:
                memory = self._memory()
            except (OSError, ValueError, KeyError):
                # The process has ended, or is not the server's program yet.
                break
            self.samples.append((time.monotonic() - self._started, memory["resident"], memory["anonymous"]))
            time.sleep(0.1)

    def note(self, event: str) -> None:
        """Marks what happens now."""
        self.events.append((time.monotonic() - self._started, event))

    def stop(self) -> None:
        """Takes no more samples."""
        self._running = False
        self._thread.join()


def _python(checkpoint: Path, into: Path, limit_mb: int | None) -> GroupedService:
    command = python_service("transformers_service", str(checkpoint.resolve()))
    return GroupedService(command, python_environment(), into / "python-service.log", limit_mb)


def _live(service: GroupedService, note: Callable[[str], None]) -> None:
    """The steps of a life that a Python service has too; raises where it fails."""
    note("imports and loads")
    service.wait_until_listening()
    note("first request")
    service.analyze("I am so happy")
    time.sleep(2)
    for event, requests, text in (("load", LOAD_TEXTS, mixed_text), ("long texts", LONG_TEXTS, long_text)):
        note(event)
        load = Load(service.port, CLIENTS, requests, text).finish()
        if load.failures:
            raise ServiceError(f"{len(load.failures)} failures ({load.failures[:2]})\n{service.tail()}")
    note("nobody asks")
    time.sleep(IDLE_SECONDS)


def python_life(checkpoint: Path, into: Path) -> Recorder:
    """Start, first request, load, long texts and idle of FastAPI with transformers, without a limit."""
    with _python(checkpoint, into, None) as service:
        record = Recorder(service.memory)
        _live(service, record.note)
        record.stop()
    return record


def python_killed(checkpoint: Path, into: Path, limit_mb: int = LIFE_LIMIT_MB) -> str:
    """What becomes of that service within a limit, in words."""
    reached = []
    with _python(checkpoint, into, limit_mb) as service:
        try:
            _live(service, reached.append)
        except ServiceError as error:
            if not service.group.kills():
                raise ServiceError(f"it failed at {reached[-1]!r} and was not killed: {error}") from error
            return f"killed by the kernel at the step: {reached[-1]}"
    return "lives through every step"


def draw(path: Path, server: Recorder, beside: Recorder | None = None) -> None:
    """A server's resident and anonymous memory, and what a Python service held, each from its own start.

    That service holds several times the limit: the axis is broken there, and what is above it has less room.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    end = max(record.samples[-1][0] for record in (server, beside) if record)
    if beside:
        figure, (above, axes) = pyplot.subplots(
            2, 1, sharex=True, figsize=(11, 8), dpi=110, height_ratios=(1, 1.8), gridspec_kw={"hspace": 0.06}
        )
        _draw_beside(above, axes, beside)
    else:
        figure, axes = pyplot.subplots(figsize=(11, 5.5), dpi=110)
    times, resident, anonymous = zip(*server.samples, strict=True)
    axes.plot(times, resident, color=RESIDENT, linewidth=2, label="emotion-server, resident")
    axes.plot(times, anonymous, color=ANONYMOUS, linewidth=2, label="emotion-server, anonymous")
    axes.axhline(LIFE_LIMIT_MB, color="black", linestyle="--", linewidth=1)
    axes.text(end, LIFE_LIMIT_MB + 4, f"limit of the container, {LIFE_LIMIT_MB} MB", fontsize=9, ha="right")
    for seconds, event in server.events:
        axes.vlines(seconds, 0, LIFE_LIMIT_MB, color="#bbbbbb", linewidth=0.8, zorder=0)
        style = {"rotation": 90, "va": "top", "fontsize": 8, "color": "#444444"}
        axes.text(seconds + end / 400, LIFE_LIMIT_MB - 12, event, **style)
    axes.set(xlabel="seconds since the start", ylabel="MB", ylim=(0, BREAK_MB), xlim=(0, end))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.subplots_adjust(left=0.06, right=0.98, top=0.98, bottom=0.12)
    figure.savefig(path)


def _draw_beside(above, axes, beside: Recorder) -> None:
    """The Python service's curve in both parts of the broken axis, its steps in the upper one."""
    times, resident, _ = zip(*beside.samples, strict=True)
    label = "FastAPI + transformers (fp32), resident, without a limit"
    axes.plot(times, resident, color=PYTHON, linewidth=2, label=label)
    above.plot(times, resident, color=PYTHON, linewidth=2)
    highest = max(resident)
    # Room above the curve for the words on it.
    above.set(ylabel="MB", ylim=(BREAK_MB, max(highest * 1.2, 2 * BREAK_MB)))
    # The first event is the start, where both curves begin. Words end at their moment, before what it changes.
    for seconds, event in beside.events[1:]:
        height = next((held for at, held, _ in reversed(beside.samples) if at <= seconds), resident[0])
        above.plot(seconds, height, "o", color=PYTHON, markersize=4)
        above.text(seconds, height + highest / 40, event, fontsize=8, color=PYTHON, ha="right", va="bottom")
    above.spines[["top", "right", "bottom"]].set_visible(False)
    above.tick_params(bottom=False)
    # Two strokes where the axis is broken.
    strokes = {"marker": [(-1, -0.5), (1, 0.5)], "markersize": 9, "color": "black", "clip_on": False}
    above.plot(0, 0, transform=above.transAxes, **strokes)
    axes.plot(0, 1, transform=axes.transAxes, **strokes)
