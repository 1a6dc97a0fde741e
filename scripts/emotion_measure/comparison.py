"""Measures one server after the other on the same texts, and lays the figures side by side."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import processes
from .load import Load
from .service import Service, ServiceError

CLIENTS = (1, 32)
# A text that no data set and no made-up mix holds: the first answer must be computed.
FIRST_TEXT = "I can't believe it worked, I am so happy!"
# Texts of no data set whose scores are compared between the servers.
PROBES = [
    "Thank you so much, you saved my weekend.",
    "I am furious that nobody told us about the delay.",
    "The train to the coast leaves at nine.",
    "I miss my grandmother, the house is so quiet without her.",
    "Wait, what? I did not expect that at all!",
    "That smell is disgusting, but I am curious what it is.",
    "I'm scared of the exam tomorrow and a bit ashamed that I did not study.",
    "Well done, I am proud of you!",
]
# How far a score may be from the heavy model's: more is another checkpoint, not rounding. The stock graph has one
# scale a matrix, and moves single scores by a quarter.
MAX_SCORE_DIFFERENCES = {"onnxruntime": 0.5, "transformers": 0.1}
# After the last answer, until memory is read: the time that a server may take to tidy up.
SETTLE_SECONDS = 2


@dataclass
class Contender:
    """A server to measure: its name and heading, how it is started, and who must answer (`Load` names them)."""

    name: str
    title: str
    command: Callable[[int], list]
    environment: dict[str, str]
    answers_as: str


@dataclass
class LoadFigures:
    """What one load gave: texts answered and failed, per second, and times in ms."""

    answered: int
    failed: int
    texts_per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms_per_text: float
    clients_cpu_ms_per_text: float


@dataclass
class Figures:
    """What one server gave; memory is the proportional set size in MB, of the process and its children."""

    title: str
    first_answer_s: float
    started_mb: float
    first_answered_mb: float
    loaded_mb: float
    loaded_anonymous_mb: float
    cuda_mb: float
    loads: dict[int, LoadFigures] = field(default_factory=dict)

    def plain(self) -> dict:
        """For JSON."""
        return asdict(self)


@dataclass
class Texts:
    """What the servers are asked with: a part of the list for each number of clients, so that none comes twice."""

    texts: list[str]

    def part(self, index: int) -> tuple[int, int]:
        """First text and number of texts of a load."""
        size = len(self.texts) // len(CLIENTS)
        return index * size, size


def probe_scores(contender: Contender, log: Path) -> list[dict[str, float]]:
    """Scores of the probe texts from a server that is started for it (and so has its files in the page cache)."""
    with Service(contender.command, contender.environment, log) as service:
        service.wait_until_listening()
        return [service.analyze(text)["all_scores"] for text in PROBES]


def greatest_difference(scores: list[dict[str, float]], others: list[dict[str, float]]) -> float:
    """Between two servers' scores of the same texts and labels."""
    if [sorted(each) for each in scores] != [sorted(each) for each in others]:
        raise ServiceError("the servers differ in their labels: the checkpoint is not the one of the heavy model")
    return max(abs(one[label] - other[label]) for one, other in zip(scores, others, strict=True) for label in one)


def all_differences(scores: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Greatest differences of the servers' scores to the heavy model's and to fp32; light has other labels."""
    same = {name: each for name, each in scores.items() if name != "light"}
    return {
        other: {name: greatest_difference(same[other], each) for name, each in same.items() if name != other}
        for other in ("heavy", "transformers")
        if other in same and len(same) > 1
    }


def measure(contender: Contender, texts: Texts, seconds: float, log: Path) -> Figures:
    """Start, first answer, and a load for each number of clients."""
    with Service(contender.command, contender.environment, log) as service:
        listening_s = service.wait_until_listening()
        started = service.memory()
        asked = time.monotonic()
        service.analyze(FIRST_TEXT)
        first_answer_s = listening_s + time.monotonic() - asked
        first_answered = service.memory()
        loads = {clients: loaded(contender, service, texts, index, seconds) for index, clients in enumerate(CLIENTS)}
        time.sleep(SETTLE_SECONDS)
        after = service.memory()
        smaps = [Path(f"/proc/{pid}/smaps").read_text() for pid in processes.tree(service.process.pid)]
        return Figures(
            title=contender.title,
            first_answer_s=first_answer_s,
            started_mb=started["resident"],
            first_answered_mb=first_answered["resident"],
            loaded_mb=after["resident"],
            loaded_anonymous_mb=after["anonymous"],
            cuda_mb=sum(map(processes.cuda_mb, smaps)),
            loads=loads,
        )


def loaded(contender: Contender, service: Service, texts: Texts, index: int, seconds: float) -> LoadFigures:
    """One closed loop; raises where another model answered than the one that is measured."""
    first, count = texts.part(index)
    server_before, clients_before = service.cpu_seconds(), time.process_time()
    load = Load(service.port, CLIENTS[index], count, texts.texts.__getitem__, first, seconds=seconds).finish()
    server, clients = service.cpu_seconds() - server_before, time.process_time() - clients_before
    answered = len(load.times)
    if not answered or set(load.answers) != {contender.answers_as}:
        raise ServiceError(
            f"{contender.title}: expected answers of {contender.answers_as!r} alone, got {load.answers or 'none'}; "
            f"{len(load.failures)} failures {load.failures[:2]}\n{service.tail()}"
        )
    return LoadFigures(
        answered=answered,
        failed=len(load.failures),
        texts_per_second=answered / load.seconds,
        p50_ms=load.quantile_ms(0.5),
        p99_ms=load.quantile_ms(0.99),
        server_cpu_ms_per_text=server / answered * 1000,
        clients_cpu_ms_per_text=clients / answered * 1000,
    )


def rows() -> list[tuple[str, Callable[[Figures], float], str]]:
    """Heading, figure and number format of each line of the table; a ratio makes sense for each."""
    found = [
        ("process start to first answer, s", lambda figures: figures.first_answer_s, ".2f"),
        ("resident after start, MB", lambda figures: figures.started_mb, ".0f"),
        ("resident after the first answer, MB", lambda figures: figures.first_answered_mb, ".0f"),
        ("resident after the loads, MB", lambda figures: figures.loaded_mb, ".0f"),
        ("of it anonymous, MB", lambda figures: figures.loaded_anonymous_mb, ".0f"),
    ]
    for clients in CLIENTS:
        many = f"{clients} client{'s' if clients > 1 else ''}"
        for title, name, shape in (
            ("texts per second", "texts_per_second", ".1f"),
            ("p50, ms", "p50_ms", ".1f"),
            ("p99, ms", "p99_ms", ".1f"),
            ("CPU of the server per text, ms", "server_cpu_ms_per_text", ".2f"),
        ):
            value = lambda figures, clients=clients, name=name: getattr(figures.loads[clients], name)  # noqa: E731
            found.append((f"{many}: {title}", value, shape))
    return found


def table(figures: dict[str, Figures], base: str, differences: dict[str, dict[str, float]]) -> str:
    """Markdown: a column a server, a line a figure; in brackets the ratio to the server `base` of the same run."""
    lines = [["", *(each.title for each in figures.values())], ["---"] * (len(figures) + 1)]
    for title, value, shape in rows():
        cells = []
        for name, each in figures.items():
            ratio = ""
            if base in figures and name != base:
                ratio = f" ({times(value(each) / value(figures[base]))})"
            cells.append(f"{value(each):{shape}}{ratio}")
        lines.append([title, *cells])
    # No ratios below: zeros, counts, and figures of the measurement itself.
    lines.append(["mapped CUDA libraries in it, MB", *(f"{each.cuda_mb:.0f}" for each in figures.values())])
    for clients in CLIENTS:
        loads = [each.loads[clients] for each in figures.values()]
        lines.append([f"{clients} at once: answered, failed", *(f"{load.answered}, {load.failed}" for load in loads)])
        cost = [f"{load.clients_cpu_ms_per_text:.2f}" for load in loads]
        lines.append([f"{clients} at once: CPU of the clients per text, ms", *cost])
    for other, found in differences.items():
        cells = [f"{found[name]:.3f}" if name in found else "" for name in figures]
        lines.append([f"greatest difference of a score to {figures[other].title}", *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def times(ratio: float) -> str:
    """A ratio with as many digits as tell something."""
    return f"{ratio:.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x" if ratio >= 0.95 else f"{ratio:.2g}x"
