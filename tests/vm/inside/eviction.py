"""The heavy model leaves when memory runs short and comes back when there is room, and every request is answered."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from groups import MB, Group, Neighbour
from results import Row
from server import Gone, Load, Server, counted

LIMIT_MB = 256
STEP_MB = 4
# What cannot be taken back is so much of the limit when that is lowered: a little above what evicts, and little enough
# for the light model.
LOWERED_SHARE = 0.80
SOON = {"HEAVY_RETRY_SECONDS": "1", "HEAVY_RETRY_MAX_SECONDS": "1"}
RIGHT = ("heavy", "light (memory_limit)", "light (does_not_fit)")


def check() -> None:
    with Row("changes", f"a neighbour takes memory of {LIMIT_MB} MB, and gives it back") as row:
        with _ready() as (group, server), Neighbour(group) as neighbour, Load(server, clients=2) as load:
            held = until_the_heavy_model_leaves(server, neighbour, range(STEP_MB, LIMIT_MB, STEP_MB))
            row.show("heavy model left beside", f"{held} MB")
            _there_and_back(row, group, server, load, lambda: neighbour.hold(0))
    with Row("changes", "`memory.max` is lowered while it runs, and raised again") as row:
        with _ready() as (group, server), Neighbour(group) as neighbour:
            neighbour.hold(LIMIT_MB * 2 // 5)
            server.rest()
            lowered = int(group.unreclaimable_bytes() / LOWERED_SHARE)
            with Load(server, clients=2) as load:
                group.set(memory_max=str(lowered))
                row.show("heavy model left at", f"{lowered // MB} MB")
                # Beside the neighbour and the light model the heavy one would not fit into what there was before.
                _there_and_back(row, group, server, load, lambda: group.set(memory_max=f"{2 * LIMIT_MB}M"))


def until_the_heavy_model_leaves(server: Server, neighbour: Neighbour, megabytes: range) -> int:
    """Lets the neighbour hold more and more; how much it was in the end."""
    for held in megabytes:
        neighbour.hold(held)
        server.wait_for_reading()
        if server.role("heavy")["state"] != "ready":
            return held
    raise Gone(f"the heavy model is still there beside {megabytes[-1]} MB: {server.health()}")


@contextmanager
def _ready() -> Iterator[tuple[Group, Server]]:
    """A server whose heavy model is ready, in a group of its own."""
    with Group("container", memory_max=f"{LIMIT_MB}M") as group, Server(group, **SOON) as server:
        if (who := server.ask("I am so happy")) != "heavy":
            raise Gone(f"the first answer in {LIMIT_MB} MB is from {who}\n{server.last_lines()}")
        yield group, server


def _there_and_back(row: Row, group: Group, server: Server, load: Load, give_room: Callable[[], None]) -> None:
    """From the heavy model's leaving to its return, with clients that ask all the while."""
    server.wait_for("an eviction", lambda health: health["roles"]["heavy"]["state"] == "barred")
    server.wait_for("the light model", lambda health: health["roles"]["light"]["state"] == "ready")
    give_room()
    server.wait_for("the heavy model's return", lambda health: health["roles"]["heavy"]["state"] == "ready")
    row.expect("an answer after it", server.ask("I am so sad"), "heavy")
    answers = load.stop()
    row.show("answers", counted(answers))
    row.expect("answers of others", [who for who in answers if who not in RIGHT], [])
    row.expect("both models answered", {who.split()[0] for who in answers}, {"heavy", "light"})
    row.show_and_expect("killed", group.kills(), 0)
