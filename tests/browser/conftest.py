"""A real server and a real browser."""

import sys
from pathlib import Path

import pytest
from page import Page, browser_programs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from real_server import Server  # noqa: E402

TEXT = "I am so proud of you, but I will miss you terribly."


@pytest.fixture(scope="session", autouse=True)
def _browser():
    """Asked before any server is started."""
    browser_programs()


@pytest.fixture(scope="session")
def server():
    """One server for the tests that leave its models as they are."""
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def start():
    """Starts servers with settings of their own."""
    started = []

    def start(**variables: str) -> Server:
        started.append(Server(**variables))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def open_page(tmp_path):
    """Opens pages in browsers of their own, whose logs are checked at the end."""
    pages = []

    def open_page(url: str, **settings) -> Page:
        page = Page(tmp_path / f"profile-{len(pages)}", **settings)
        pages.append((page, url))
        return page.open(url)

    yield open_page
    try:
        for page, url in pages:
            page.check_logs(url)
    finally:
        for page, _ in pages:
            page.close()


@pytest.fixture
def page(server, open_page):
    """The playground on a wide screen."""
    return open_page(f"{server.url}/")
