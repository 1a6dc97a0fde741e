"""Quotas of processor time: as many workers as whole cores of it, and answers with a tenth of a core too."""

from groups import Group
from results import Row
from server import Server

PERIOD_US = 100_000
# Workers for a quota of so many cores, on a machine of two.
WORKERS = {0.1: 1, 0.5: 1, 1.0: 1, 1.5: 1, 2.0: 2}


def check() -> None:
    for cores, workers in WORKERS.items():
        quota = f"{int(cores * PERIOD_US)} {PERIOD_US}"
        with Row("processors", f"{cores:g} cores") as row, Group("quota", cpu_max=quota) as group:
            _expect_workers(row, group, workers)
    with Row("processors", "no quota") as row, Group("quota") as group:
        _expect_workers(row, group, 2)
    with Row("processors", "1 core, set on the group around it") as row, Group("pod") as pod:
        pod.share("cpu")
        pod.set(cpu_max=f"{PERIOD_US} {PERIOD_US}")
        with Group("pod/container") as group:
            _expect_workers(row, group, 1)


def _expect_workers(row: Row, group: Group, workers: int) -> None:
    with Server(group, USE_LIGHT_MODEL="true") as server:
        row.show_and_expect("answer", server.ask("I am so happy"), "light (use_light_model)")
        row.show_and_expect("HTTP workers", server.http_workers(), workers)
        row.show_and_expect("workers of the model", server.role("light")["workers"], workers)
