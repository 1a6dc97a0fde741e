"""Runs the checks of one machine, named by the only argument; the last line says that all of them ran."""

import json
import subprocess
import sys

import containers
import eviction
import killed_as_one
import limits
import processors
from results import Row
from server import APP, VARIABLES

CHECKS = {
    "containers": [containers.check],
    "groups": [processors.check, limits.check, eviction.check, killed_as_one.check],
    "small": [limits.check_small_machine],
    "hybrid": [limits.check_hybrid],
}


def prepare() -> None:
    """Writes the models' weights for this processor, as an image build does."""
    with Row("machine", "weights prepared ahead") as row:
        subprocess.run([APP / "emotion-server", "prepare"], env=VARIABLES, check=True, stdout=subprocess.DEVNULL)
        row.show("models", "both")


def main() -> None:
    name = sys.argv[1]
    if checks := CHECKS.get(name):
        prepare()
    for check in checks or []:
        check()
    print(json.dumps({"all of": name}), flush=True)


if __name__ == "__main__":
    main()
