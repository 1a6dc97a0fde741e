"""A real server of this build on a free port, for the clients of each contract."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from real_server import Server


@pytest.fixture(scope="module")
def server():
    """One server for the tests of a file, with the key of the documentation's examples."""
    running = Server(ADMIN_KEY="secret")
    yield running
    running.stop()
