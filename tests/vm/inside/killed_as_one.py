"""Groups whose processes the kernel kills together, as kubelets set `memory.oom.group`: it never comes to that."""

import shutil
import threading
from collections.abc import Callable

from groups import Group, Neighbour
from results import Row
from server import PATIENCE_SECONDS, Gone, Server

# Only int4 weights take much memory to prepare.
UNPREPARED = {"MODEL_PRECISION": "int4", "MODEL_CACHE_DIR": "/srv/empty"}
# Preparing is tried only where there is room for twice what it takes, which there is in the second of these alone.
TIGHT_MB, ROOMY_MB = 256, 640
STEP_MB = 20


def check() -> None:
    """The first request comes where no weights are prepared yet."""
    with Row("changes", f"`memory.oom.group` in {TIGHT_MB} MB, nothing prepared") as row:
        _first_answer(row, TIGHT_MB, lambda *_: None)
    with Row("changes", f"the same in {ROOMY_MB} MB, a neighbour grows while weights are prepared") as row:
        _first_answer(row, ROOMY_MB, _grow_while_a_child_prepares)


def _first_answer(row: Row, limit_mb: int, meanwhile: Callable[[Group, Server, Neighbour, threading.Thread], None]):
    shutil.rmtree(UNPREPARED["MODEL_CACHE_DIR"], ignore_errors=True)
    with Group("container", memory_max=f"{limit_mb}M", memory_oom_group="1") as group:
        with Server(group, **UNPREPARED) as server, Neighbour(group) as neighbour:
            answers: list[str] = []
            client = threading.Thread(target=lambda: answers.append(server.ask("I am so happy")), daemon=True)
            client.start()
            meanwhile(group, server, neighbour, client)
            client.join(PATIENCE_SECONDS)
            if not answers:
                raise Gone(f"no answer\n{server.last_lines()}")
            row.show_and_expect("answers", answers[0], lambda who: not who.startswith("failed"))
            row.expect("alive", server.is_alive(), True)
            row.expect("exit code of the neighbour", neighbour.process.poll(), None)
            row.show_and_expect("killed", group.kills(), 0)
    shutil.rmtree(UNPREPARED["MODEL_CACHE_DIR"], ignore_errors=True)


def _grow_while_a_child_prepares(group: Group, server: Server, neighbour: Neighbour, client: threading.Thread) -> None:
    known = {server.process.pid, neighbour.process.pid}
    server.wait_for("a child that prepares", lambda _: set(group.processes()) - known)
    for held in range(STEP_MB, ROOMY_MB, STEP_MB):
        neighbour.hold(held)
        server.wait_for_reading()
        if not client.is_alive() or server.memory()["level"] == "evict":
            return
