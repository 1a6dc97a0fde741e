"""The API keeps to its own description, whatever is sent: schemathesis with all of its checks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from real_server import Server

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def guarded():
    """A server whose models stay where they are: loading and unloading need a key that nobody has."""
    running = Server(ADMIN_KEY="nobody has it")
    yield running
    running.stop()


def test_every_operation_keeps_to_the_description(guarded, tmp_path):
    # Lines are no JSON document; tests/api/ndjson.rs has their table.
    command = ["run", f"{guarded.url}/openapi.json", "--exclude-path", "/analyze/ndjson"]
    options = ["--checks", "all", "--max-examples", "30", "--seed", "1", "--no-color"]
    program = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(HERE / "schemathesis.toml")]
    run = subprocess.run(program + command + options, cwd=tmp_path, capture_output=True, text=True, timeout=540)
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
    assert "Tested: 31" in run.stdout, run.stdout[-2000:]


def test_the_description_has_examples_and_errors_for_every_operation(server):
    api = requests.get(f"{server.url}/openapi.json", timeout=10).json()
    assert api["openapi"].startswith("3.1")
    for path, item in api["paths"].items():
        for method, operation in item.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert "200" in operation["responses"], where
            errors = {status: reply for status, reply in operation["responses"].items() if status >= "400"}
            assert "401" in errors, where
            for status, reply in errors.items():
                content = reply["content"]["application/json"]
                assert "example" in content or status == "503", f"{where} {status}"


def test_examples_of_requests_are_answered(server):
    api = requests.get(f"{server.url}/openapi.json", timeout=10).json()
    asked = 0
    for path, item in api["paths"].items():
        body = item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json")
        if body is None or "$ref" not in body["schema"]:
            continue
        example = api["components"]["schemas"][body["schema"]["$ref"].split("/")[-1]].get("example")
        if example is None:
            continue
        for model in ("heavy", "light", "auto"):
            url = path.replace("{model}", model).replace("{id}", model).replace("{version}", "1")
            reply = requests.post(server.url + url, json=example, timeout=60)
            assert reply.status_code == 200, f"{url}: {reply.text}"
            asked += 1
    assert asked >= 7 * 3


def test_the_page_needs_nothing_from_elsewhere(server):
    page = requests.get(f"{server.url}/docs", timeout=10)
    assert page.headers["content-type"].startswith("text/html")
    assert "openapi.json" in page.text
    assert "http://" not in page.text and "https://" not in page.text
    assert json.loads(requests.get(f"{server.url}/openapi.json", timeout=10).text)["paths"]
