"""What goes wrong is said in words, in its place."""

import json

import pytest
from conftest import TEXT
from real_server import ask

# The reply of a server, or of a proxy in front of it, to the next readings.
REPLY = (
    "const [status, body, headers] = arguments; const send = window.fetch;"
    "window.fetch = (path, options) => path === 'analyze'"
    " ? Promise.resolve(new Response(body, {status, headers})) : send(path, options);"
)


def native(message: str) -> str:
    """An error as the server writes it."""
    return json.dumps({"error": message, "error_type": "some"})


@pytest.mark.parametrize(
    ("status", "body", "title", "detail"),
    [
        (400, native("the body is not JSON"), "There is nothing to read", "The body is not JSON."),
        (401, native("send it as a Bearer token"), "This server needs a key", "Enter one of its keys in the field"),
        (403, "<html>Forbidden</html>", "Access is refused", "Something between this page and the server"),
        (413, native("the body is over 10 bytes"), "The text is too large", "The body is over 10 bytes."),
        (422, native("top_k is 9"), "The server cannot take this as it is", "Top_k is 9."),
        (429, native("the queue is full"), "Too many requests for the moment", "The queue is full."),
        (500, "", "The server failed (500)", ""),
        (502, "<html>Bad gateway</html>", "The server failed (502)", ""),
        (503, native("memory is short"), "No model can answer for the moment", "Memory is short."),
        (504, native("too late"), "The answer took too long", "Too late."),
        (200, "<html>", "The reply cannot be read", "It is not JSON."),
    ],
)
def test_every_refusal_has_words(page, status, body, title, detail):
    page.run(REPLY, status, body, {})
    page.write(TEXT)
    page.wait_for_text(title, "#readings .notice.bad")
    assert detail in page.text("#readings .notice.bad")
    assert page.all("#readings .notice.bad button"), "nothing can be done about it"
    assert title in page.run("return document.getElementById('said').textContent")
    assert not page.is_wider_than_its_window()


def test_a_text_over_the_limit_is_refused_in_words(start, open_page):
    server = start(MAX_BODY_BYTES="1024")
    page = open_page(f"{server.url}/")
    page.paste("I am so happy that you came. " * 100)
    page.wait_for_text("The text is too large", "#readings")
    assert "1024 bytes" in page.text("#readings")
    page.paste(TEXT)
    page.wait_for_bars(28)


def test_too_many_requests_are_tried_again_in_time(start, open_page):
    server = start(RATE_LIMIT_RPS="1", RATE_LIMIT_BURST="12", PRELOAD_MODELS="heavy")
    page = open_page(f"{server.url}/")
    page.wait_for_text("live", "#live")
    while ask(f"{server.url}/health")[0] != 429:
        pass
    page.paste(TEXT)
    page.wait_for_text("Too many requests for the moment", "#readings")
    assert "This page tries again by itself in 1 s." in page.text("#readings")
    page.wait_for_bars(28)


def test_no_model_at_all_is_said_and_a_load_helps(start, open_page):
    server = start(ADMIN_KEY="two")
    for role in ("heavy", "light"):
        assert ask(f"{server.url}/admin/models/{role}/unload", key="two", method="POST")[0] == 200
    page = open_page(f"{server.url}/")
    page.one("#key").send_keys("two", "\ue007")
    page.write(TEXT)
    page.wait_for_text("No model can answer for the moment", "#readings")
    page.wait_for_text("degraded", "#live")
    page.one(".model[data-role=light] button").click()
    page.wait_for_bars(7)


def test_a_server_that_goes_and_comes_back_is_noticed(start, open_page):
    server = start()
    page = open_page(f"{server.url}/")
    page.wait_for_text("live", "#live")
    server.stop()
    page.write(TEXT)
    page.wait_for_text("The server does not answer", "#readings")
    page.wait_for_text("no answer", "#live")
    start(PORT=str(server.port))
    page.wait_for_bars(28)
    page.wait_for_text("live", "#live")
