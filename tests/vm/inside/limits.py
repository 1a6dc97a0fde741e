"""Which limit of memory the server goes by: the group's, its parents', the machine's, whatever it can see of them."""

from eviction import until_the_heavy_model_leaves
from groups import ROOT, Group, Neighbour
from results import Row
from server import Server, machine_mb

ONE_CORE = "100000 100000"
# What the shell does before the server starts, to see the control groups as a container engine shows them.
AS_SEEN = {
    "cgroup namespace, mounted inside it, only to be read": (
        "C", "umount -l /sys/fs/cgroup && mount -t cgroup2 -o ro none /sys/fs/cgroup"
    ),
    "no cgroup namespace, only the own group mounted": (
        "", "mount --bind /sys/fs/cgroup/own /mnt && umount -l /sys/fs/cgroup && mount --move /mnt /sys/fs/cgroup"
    ),
    "no cgroup namespace, the whole tree only to be read": ("", "mount -o remount,bind,ro /sys/fs/cgroup"),
}  # fmt: skip


def check() -> None:
    _of_one_group()
    _of_groups_around_it()
    _of_neighbours()
    _through_namespaces()


def _expect_limit(row: Row, group: Group | None, limit_mb: int, **options) -> None:
    with Server(group, **options) as server:
        row.show_and_expect("limit seen, MB", server.limit_mb(), limit_mb)
        row.show("from", server.memory()["limit_from"])


def _of_one_group() -> None:
    machine = machine_mb()
    for case, limits, expected in (
        ("`memory.max` 512 MB", {"memory_max": "512M"}, 512),
        ("`memory.high` 256 MB, `memory.max` 512 MB", {"memory_high": "256M", "memory_max": "512M"}, 256),
        ("`memory.high` 256 MB alone", {"memory_high": "256M"}, 256),
        ("`memory.max` above the machine's memory", {"memory_max": "64G"}, machine),
        ("no limit", {}, machine),
    ):
        with Row("limits", case) as row, Group("own", **limits) as group:
            _expect_limit(row, group, expected)


def _of_groups_around_it() -> None:
    for case, pod_mb, own_mb, expected in (
        ("pod 256 MB, container without a limit", 256, None, 256),
        ("pod 256 MB, container 512 MB", 256, 512, 256),
        ("pod 256 MB, container 128 MB", 256, 128, 128),
    ):
        with Row("limits", case) as row, Group("pod", memory_max=f"{pod_mb}M") as pod:
            pod.share("memory")
            with Group("pod/container") as group:
                if own_mb:
                    group.set(memory_max=f"{own_mb}M")
                _expect_limit(row, group, expected)


def _of_neighbours() -> None:
    """Each group is held against what is used in it: a neighbour counts in the pod, and not in the container."""
    with Row("limits", "pod 256 MB, container 128 MB, a neighbour in the pod") as row:
        with Group("pod", memory_max="256M") as pod:
            pod.share("memory")
            with Group("pod/container", memory_max="128M") as own, Group("pod/neighbour") as other:
                with Server(own) as server, Neighbour(other) as neighbour:
                    neighbour.hold(120)
                    server.wait_for_reading()
                    row.show_and_expect("with 120 MB", server.memory()["level"], "normal")
                    neighbour.hold(175)
                    server.wait_for_reading()
                    row.show_and_expect("with 175 MB", server.memory()["level"], lambda level: level != "normal")
                    row.expect("killed", pod.kills(), 0)


def _through_namespaces() -> None:
    for case, (namespaces, before) in AS_SEEN.items():
        with Row("limits", f"512 MB and one core; {case}") as row:
            with Group("own", memory_max="512M", cpu_max=ONE_CORE) as group:
                start = f'{before} && exec "$0" "$@"'
                wrapper = ["python3", "/srv/checks/unshare.py", f"m{namespaces}", "/bin/sh", "-c", start]
                with Server(group, wrapper=wrapper) as server:
                    row.show_and_expect("limit seen, MB", server.limit_mb(), 512)
                    row.show_and_expect("HTTP workers", server.http_workers(), 1)


def check_small_machine() -> None:
    """A machine of 512 MB with no limit, or with one that it cannot reach, as `MemoryMax=512M` in a unit."""
    machine = machine_mb()
    for case, limits in (("no limit", {}), ("`memory.max` 512 MB", {"memory_max": "512M"})):
        with Row("small machine", f"{machine} MB, {case}") as row, Group("unit", **limits) as unit:
            with Group("others") as others, Server(unit) as server, Neighbour(others) as neighbour:
                row.show_and_expect("limit seen, MB", server.limit_mb(), machine)
                row.show_and_expect("answers", server.ask("I am so happy"), "heavy")
                held = until_the_heavy_model_leaves(server, neighbour, range(100, machine, 10))
                row.show("heavy model left beside", f"{held} MB")
                row.expect("share of the machine", held / machine, lambda share: share < 0.78)
                row.show_and_expect("answers then", server.ask("I am so sad"), lambda who: who.startswith("light ("))
                row.show_and_expect("killed", unit.kills() + others.kills(), 0)


def check_hybrid() -> None:
    """Memory in version 2 below `unified`, processors in version 1, as older systemd mounts them."""
    quota = ROOT.parent / "cpu" / "own"
    quota.mkdir()
    (quota / "cpu.cfs_quota_us").write_text("100000")
    enter = ["/bin/sh", "-c", f'echo $$ >{quota}/cgroup.procs && exec "$0" "$@"']
    with Row("limits", "hybrid: 512 MB in version 2, one core in version 1") as row:
        with Group("own", memory_max="512M") as group, Server(group, wrapper=enter) as server:
            row.show_and_expect("limit seen, MB", server.limit_mb(), 512)
            row.show_and_expect("HTTP workers", server.http_workers(), 1)
            row.show_and_expect("answers", server.ask("I am so happy"), "heavy")
            row.expect("killed", group.kills(), 0)
    with Row("limits", "hybrid: limit on the group around it") as row, Group("pod", memory_max="256M") as pod:
        pod.share("memory")
        with Group("pod/container") as group:
            _expect_limit(row, group, 256)
