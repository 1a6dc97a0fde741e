"""The description of the API, as people see it."""

import json

import pytest
from real_server import ask


@pytest.fixture
def docs(server, open_page):
    """The page once it has read the description."""
    page = open_page(f"{server.url}/docs")
    page.wait("the paths", lambda: page.all(".operation"))
    return page


def test_every_operation_is_there_and_can_be_tried(docs, server):
    _, api = ask(f"{server.url}/openapi.json")
    expected = sorted(f"{method.upper()} {path}" for path, item in api["paths"].items() for method in item)
    shown = docs.run(
        "return [...document.querySelectorAll('.operation > summary')].map((summary) =>"
        " `${summary.querySelector('.method').textContent} ${summary.querySelector('code').textContent}`)"
    )
    assert sorted(shown) == expected
    docs.one(".operation > summary").click()
    docs.one(".operation[open] form button").click()
    docs.wait_for_text("200 OK", ".operation[open] .reply")
    assert json.loads(docs.one(".operation[open] .reply pre").text)["emotion"] == "love"


def test_every_body_has_an_example(docs):
    empty = docs.run(
        "return [...document.querySelectorAll('.operation')]"
        ".filter((operation) => operation.querySelector('textarea')?.value === '')"
        ".map((operation) => operation.querySelector('code').textContent)"
    )
    assert empty == ["/v2/repository/index"], "only this body may be left out"


def test_a_key_is_sent_with_what_is_tried(start, open_page):
    server = start(API_KEY="one")
    page = open_page(f"{server.url}/docs")
    page.wait("the paths", lambda: page.all(".operation"))
    page.one(".operation > summary").click()
    send = page.one(".operation[open] form button")
    send.click()
    page.wait_for_text("401", ".operation[open] .reply")
    page.one("#key").send_keys("one")
    send.click()
    page.wait_for_text("200 OK", ".operation[open] .reply")


def test_a_phone_needs_no_scrolling_sideways(server, open_page):
    page = open_page(f"{server.url}/docs", width=320)
    page.wait("the paths", lambda: page.all(".operation"))
    page.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert not page.is_wider_than_its_window()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(server, open_page, scheme):
    page = open_page(f"{server.url}/docs", scheme=scheme)
    page.wait("the paths", lambda: page.all(".operation"))
    page.run("document.querySelectorAll('.operation details, .operation').forEach((one, index) => {"
             " if (index < 12) one.open = true; })")
    assert page.violations() == []
