"""The panel of the server: memory, models and keys."""

import time

from conftest import TEXT
from real_server import ask

POLL_SECONDS = 2


def press(page, role: str) -> None:
    """Presses the button of a model."""
    page.one(f".model[data-role={role}] button").click()


def state(page, role: str) -> str:
    """What the panel says of a model."""
    return page.one(f".model[data-role={role}]").get_attribute("data-state") or ""


def test_models_are_loaded_and_unloaded_by_their_buttons(start, open_page):
    server = start(MODEL_MEMORY_LIMIT="2000", ADMIN_KEY="two")
    page = open_page(f"{server.url}/")
    page.wait("the panel", lambda: state(page, "heavy") == "absent")
    page.one("#key").send_keys("two", "\ue007")
    page.wait_for_text("A key is in use in this tab.", "#key-state")
    page.one(".model[data-role=light] button").send_keys("\ue007")
    page.wait("the load", lambda: state(page, "light") == "ready")
    page.wait_for_text("Loaded in", ".model[data-role=light] .outcome")
    assert page.text(".model[data-role=light] button") == "Unload"
    assert page.run("return document.activeElement.closest('.model')?.dataset.role") == "light", "the focus was lost"
    assert ask(f"{server.url}/health")[1]["roles"]["light"]["state"] == "ready"
    press(page, "light")
    page.wait("the unload", lambda: state(page, "light") == "barred")
    assert ask(f"{server.url}/health")[1]["roles"]["light"]["state"] == "barred"
    assert "of 2000 MB" in page.text(".gauge")
    assert "Normal: there is room." in page.text("#memory")


def test_the_panel_follows_the_server(start, open_page):
    server = start(ADMIN_KEY="two")
    page = open_page(f"{server.url}/")
    page.wait("the panel", lambda: state(page, "light") == "absent")
    assert ask(f"{server.url}/admin/models/light/load", key="two", method="POST")[0] == 200
    page.wait("the state of the server", lambda: state(page, "light") == "ready")
    for _ in range(3):
        ask(f"{server.url}/analyze", {"text": TEXT, "model": "light"})
    page.wait_for_text("2 of 3", "#figures")
    assert "Texts waiting" in page.text("#figures")
    assert "no limit is set" in page.text("#memory") or " of " in page.text("#memory")


def test_nothing_is_asked_while_the_page_is_hidden(start, open_page):
    server = start()
    page = open_page(f"{server.url}/")
    page.wait_for_text("live", "#live")
    first = page.driver.current_window_handle

    def polls() -> int:
        return sum("GET /health" in line for line in server.log)

    page.driver.switch_to.new_window("tab")
    before = polls()
    assert before >= 1
    time.sleep(2 * POLL_SECONDS)  # That nothing happens cannot be awaited.
    assert polls() == before
    page.driver.close()
    page.driver.switch_to.window(first)
    page.wait("another poll", lambda: polls() > before)
    page.wait_for_text("live", "#live")


def test_keys_open_the_page_and_stay_in_its_tab(start, open_page):
    server = start(API_KEY="one", ADMIN_KEY="two")
    page = open_page(f"{server.url}/")
    page.wait_for_text("The server's state needs a key", "#server-notice")
    page.write(TEXT)
    page.wait_for_text("This server needs a key", "#readings")
    page.one("#readings .notice button").click()
    assert page.run("return document.activeElement.id") == "key"

    page.one("#key").send_keys("three", "\ue007")
    page.wait_for_text("The key is not accepted", "#readings")
    page.wait_for_text("The key in use does not open it.", "#server-notice")
    page.one("#key").send_keys("schlüssel", "\ue007")
    page.wait_for_text("characters that cannot be sent", "#key-state")

    page.one("#key").clear()
    page.one("#key").send_keys("one", "\ue007")
    page.wait_for_bars(28)
    page.wait("the panel", lambda: state(page, "heavy") == "ready")
    press(page, "heavy")
    page.wait_for_text("This needs the admin key", ".model[data-role=heavy] .outcome")
    assert state(page, "heavy") == "ready"

    page.one("#key").send_keys("two", "\ue007")
    page.wait_for_text("A key is in use in this tab.", "#key-state")
    press(page, "heavy")
    page.wait("the unload", lambda: state(page, "heavy") == "barred")

    kept = "return [JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie, location.href]"
    session, local, cookies, address = page.run(kept)
    assert "two" in session and "two" not in local + cookies + address
    page.driver.refresh()
    page.wait("the panel with the key of this tab", lambda: state(page, "heavy") == "barred")
    assert page.one("#key").get_attribute("value") == ""
    page.one("#forget").click()
    page.wait_for_text("The server's state needs a key", "#server-notice")
    assert page.run("return sessionStorage.length") == 0


def test_where_the_buttons_are_off_they_say_which_setting_turns_them_on(start, open_page):
    page = open_page(f"{start().url}/")
    page.wait("the panel", lambda: state(page, "light") == "absent")
    press(page, "light")
    page.wait_for_text("set ADMIN_KEY or ADMIN_KEY_FILE", ".model[data-role=light] .outcome")
    assert state(page, "light") == "absent"


def test_a_page_that_may_be_read_by_all_works_where_health_is_open(start, open_page):
    server = start(API_KEY="one", ADMIN_KEY="two", OPEN_PATHS="pages,health")
    page = open_page(f"{server.url}/")
    page.wait("the panel", lambda: state(page, "heavy") == "absent")
    press(page, "heavy")
    page.wait_for_text("This needs the admin key", ".model[data-role=heavy] .outcome")
