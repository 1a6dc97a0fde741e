"""Both models in containers of several sizes, from cold caches: every request is answered and nobody is killed."""

from groups import MB, Group
from results import Row
from server import Load, Server, cool, counted

# Who is to answer in a container of so many MB. Below about 150 MB the heavy model's weights have no room.
ANSWERS = {512: "heavy", 256: "heavy", 192: "heavy", 128: "light (does_not_fit)"}
CLIENTS, TEXTS = 3, 14
# The part of the limit at which the heavy model would have to go.
EVICTION_SHARE = 0.78
# By how much the server's figure may differ from the kernel's a moment later.
DRIFT_MB = 8


def check() -> None:
    for limit_mb, who in ANSWERS.items():
        with Row("containers", f"{limit_mb} MB") as row, Group("container", memory_max=f"{limit_mb}M") as group:
            cool()
            with Server(group) as server:
                with group.most_unreclaimable() as most:
                    answers = Load(server, CLIENTS, TEXTS).finish()
                row.show_and_expect("answers", counted(answers), f"{TEXTS} {who}")
                row.expect("limit, MB", server.limit_mb(), limit_mb)
                row.expect("unreclaimable", most[0] / MB / limit_mb, lambda share: share < EVICTION_SHARE)
                server.rest()
                _show_memory(row, group, server, most[0])
                row.show_and_expect("killed", group.kills(), 0)
                row.expect("alive", server.is_alive(), True)


def _show_memory(row: Row, group: Group, server: Server, most_bytes: int) -> None:
    memory, unreclaimable_bytes = server.memory(), group.unreclaimable_bytes()
    row.expect(
        "unreclaimable MB by the server and by the kernel",
        (memory["unreclaimable_bytes"] // MB, unreclaimable_bytes // MB),
        lambda both: abs(both[0] - both[1]) <= DRIFT_MB,
    )
    row.show("unreclaimable MB at most", most_bytes // MB)
    row.show("after it", unreclaimable_bytes // MB)
    row.show("resident MB", memory["resident_bytes"] // MB)
    row.show("with page cache", group.usage_bytes() // MB)
