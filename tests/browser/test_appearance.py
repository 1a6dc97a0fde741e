"""Light and dark, narrow and wide, by keyboard and for screen readers."""

import pytest
from conftest import TEXT

TAB, ENTER, SPACE, RIGHT = "\ue004", "\ue007", "\ue00d", "\ue014"


def background(page) -> tuple[int, ...]:
    """Red, green and blue behind the page."""
    colour = page.run("return getComputedStyle(document.body).backgroundColor")
    return tuple(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def is_dark(page) -> bool:
    """Whether the page is light on dark."""
    return sum(background(page)) < 3 * 64


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_page_is_as_dark_as_the_system_until_one_chooses(server, open_page, path):
    page = open_page(f"{server.url}{path}", scheme="dark")
    toggle = page.one("#theme")
    assert is_dark(page) and toggle.get_attribute("aria-pressed") == "true"
    page.prefer("light")
    page.wait("the light page", lambda: not is_dark(page) and toggle.get_attribute("aria-pressed") == "false")
    toggle.click()
    assert is_dark(page) and toggle.get_attribute("aria-pressed") == "true"
    page.driver.refresh()
    assert is_dark(page), "the choice was not remembered"
    page.open(f"{server.url}{'/docs' if path == '/' else '/'}")
    assert is_dark(page), "the choice does not hold for the other page"


def test_a_phone_needs_no_scrolling_sideways(server, open_page):
    page = open_page(f"{server.url}/", width=320, height=640)
    page.wait_for_text("live", "#live")
    assert not page.is_wider_than_its_window(), "with nothing typed"
    page.choose("both")
    page.paste("Supercalifragilisticexpialidocious" * 10 + " " + TEXT)
    page.wait_for_bars(28, 0)
    page.wait_for_bars(7, 1)
    assert not page.is_wider_than_its_window(), "with two answers"
    outside = page.run(
        "return [...document.querySelectorAll('main *')].filter((element) => {"
        " const box = element.getBoundingClientRect();"
        " return box.width > 1 && (box.right > innerWidth + 0.5 || box.left < -0.5);"
        "}).map((element) => element.outerHTML.slice(0, 90))"
    )
    assert outside == []
    small = page.run(
        "return [...document.querySelectorAll('button, input[type=password], textarea')]"
        ".filter((e) => e.offsetHeight && e.offsetHeight < 24).map((e) => e.outerHTML)"
    )
    assert small == [], "too small to be touched"


def focused(page) -> str:
    """Id, or class, or text, of what has the focus."""
    return page.run("const e = document.activeElement; return e.id || e.value || e.textContent.trim()")


def press(page, *keys: str) -> None:
    """Presses keys wherever the focus is."""
    page.driver.switch_to.active_element.send_keys(*keys)


def test_everything_can_be_done_by_keyboard(page):
    page.wait_for_text("live", "#live")
    press(page, TAB)
    assert "Skip to the text" in focused(page)
    press(page, ENTER)
    page.wait("the text field", lambda: focused(page) == "text")
    press(page, "What a wonderful surprise!")
    page.wait_for_bars(28)
    press(page, TAB)
    assert focused(page) == "Pride and loss"
    press(page, TAB)
    press(page, ENTER)
    page.wait_for_text("Gratitude", ".headline")
    for _ in range(10):
        press(page, TAB)
        if focused(page) == "auto":
            break
    assert focused(page) == "auto"
    press(page, RIGHT)
    page.wait_for_bars(7, 1)
    seen = set()
    for _ in range(12):
        press(page, TAB)
        seen.add(focused(page))
        outline = "const e = document.activeElement; return e === document.body ? '' : getComputedStyle(e).outlineStyle"
        assert page.run(outline) != "none", f"the focus on {focused(page)} cannot be seen"
    assert {"copy", "curl", "key"} <= seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_playground(server, open_page, scheme):
    page = open_page(f"{server.url}/", scheme=scheme)
    page.wait_for_text("live", "#live")
    assert page.violations() == [], "with nothing typed"
    page.choose("both")
    page.write(TEXT)
    page.wait_for_bars(28, 0)
    page.wait_for_bars(7, 1)
    assert page.violations() == [], "with two answers"
    page.resize(320)
    assert page.violations() == [], "on a phone"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_troubles(start, open_page, scheme):
    server = start(API_KEY="one")
    page = open_page(f"{server.url}/", scheme=scheme)
    page.write(TEXT)
    page.wait_for_text("This server needs a key", "#readings")
    page.wait_for_text("The server's state needs a key", "#server-notice")
    assert page.violations() == []


def test_what_moves_is_still_for_those_who_ask(page):
    page.write(TEXT)
    page.wait_for_bars(28)
    moving = (
        "return [...document.querySelectorAll('*')].filter((e) => { const s = getComputedStyle(e);"
        " return s.transitionDuration !== '0s' && s.transitionProperty !== 'none' || s.animationName !== 'none';"
        "}).length"
    )
    assert page.run(moving) == 0
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert page.run(moving) > 0
