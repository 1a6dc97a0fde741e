"""The request as a command, which does what the page did."""

import json
import os
import shutil
import subprocess

import pytest
from conftest import TEXT
from real_server import ask

AWKWARD = "It's \"so\" `ls` $HOME ${PATH} $(id) \\n !! 'quoted'\n<b onclick=\"x\">täglich 🎉</b> it''s"


def run(command: str, cwd=None, **variables: str) -> list[dict]:
    """The JSON objects that a shell's command prints."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere"} | variables
    options = {"env": environment, "cwd": cwd, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(["sh", "-c", command], **options)
    assert done.returncode == 0, done.stderr
    decoder, found, rest = json.JSONDecoder(), [], done.stdout
    while rest.strip():
        value, end = decoder.raw_decode(rest)
        found.append(value)
        rest = rest[end:]
    return found


@pytest.fixture
def curl():
    """The program that the command is for."""
    if shutil.which("curl") is None:
        pytest.fail("curl is not installed; on Debian: apt-get install curl")


def shown(page) -> str:
    """The whole command."""
    return page.run("return document.getElementById('curl').textContent")


def test_the_command_asks_what_the_page_asked(page, server, curl):
    page.paste(AWKWARD)
    page.wait_for_bars(28)
    _, expected = ask(f"{server.url}/analyze", {"text": AWKWARD})
    assert run(shown(page)) == [expected]
    assert not page.all("#curl b"), "what was typed became markup"


def test_a_text_too_long_for_a_command_comes_from_a_file(page, tmp_path, curl):
    text = "I am so happy that you came. " * 6000
    page.paste(text)
    page.wait_for_bars(28)
    assert len(shown(page)) < 1000
    (tmp_path / "body.json").write_text(json.dumps({"text": text}))
    (answer,) = run(shown(page), cwd=tmp_path)
    assert answer["truncated"] and answer["emotion"] == "joy"


def test_heavy_beside_light_is_two_commands(page, curl):
    page.write(TEXT)
    page.choose("both")
    page.wait_for_bars(28, 0)
    roles = [answer["model"]["role"] for answer in run(shown(page))]
    assert roles == ["heavy", "light"]


def test_the_key_is_named_and_never_shown(start, open_page, curl):
    server = start(API_KEY="hush-hush")
    page = open_page(f"{server.url}/")
    page.write(TEXT)
    page.wait_for_text("This server needs a key")
    page.one("#key").send_keys("hush-hush", "\ue007")
    page.wait_for_bars(28)
    command = shown(page)
    assert "$API_KEY" in command
    assert "hush" not in page.run("return document.documentElement.outerHTML")
    (answer,) = run(command, API_KEY="hush-hush")
    assert answer["emotion"] == "sadness"
    (refused,) = run(command, API_KEY="wrong")
    assert refused["error_type"] == "unauthorized"


def test_the_command_can_be_copied(page, server):
    page.write(TEXT)
    page.wait_for_bars(28)
    granted = {"origin": server.url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", granted)
    page.one("#copy").click()
    page.wait_for_text("Copied.", "#copied")
    read = "navigator.clipboard.readText().then(arguments[0], (error) => arguments[0](String(error)))"
    assert page.driver.execute_async_script(read) == shown(page)


def test_without_a_clipboard_the_command_is_copied_or_selected(page):
    page.run("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.one("#copy").click()
    page.wait("an outcome", lambda: page.text("#copied"))
    assert page.run("return getSelection().toString()").strip() == page.text("#curl").strip()
