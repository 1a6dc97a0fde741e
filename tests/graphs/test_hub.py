"""`make export-hub` against a hub on loopback that serves random checkpoints under the two models' names."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from .conftest import LABELS, ROOT, make_checkpoint, make_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HEAVY, LIGHT = "SamLowe/roberta-base-go_emotions", "j-hartmann/emotion-english-distilroberta-base"


def make_handler(repositories):
    """Answers what huggingface_hub asks for: the list of files, and each file with its hash."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body):
            parts = self.path.split("?")[0].strip("/").split("/")
            repository = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
            folder = repositories.get(repository)
            if folder is None:
                return self.reply(404, b"{}", with_body, **{"X-Error-Code": "RepoNotFound"})
            if parts[0] == "api":
                files = [{"rfilename": path.name} for path in folder.iterdir()]
                listing = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": files}
                return self.reply(200, json.dumps(listing).encode(), with_body, **{"Content-Type": "application/json"})
            path = folder / parts[-1]
            if not path.is_file():
                return self.reply(404, b"", with_body, **{"X-Error-Code": "EntryNotFound"})
            content = path.read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            return self.reply(200, content, with_body, **{"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        def reply(self, status, content, with_body, **headers):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    return Handler


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Address of a running hub with both models; the light one has six layers, as the real one."""
    repositories = {}
    for name, layers in ((HEAVY, 3), (LIGHT, 6)):
        folder = make_checkpoint("roberta", tmp_path_factory.mktemp("hub") / "checkpoint", layers)
        make_tokenizer("roberta", folder)
        repositories[name] = folder
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), make_handler(repositories))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def export(source, role, output, endpoint, home):
    """Runs the script as `make export-hub` does."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home), "HF_ENDPOINT": endpoint}
    command = [sys.executable, "scripts/export.py", source, "--role", role, "--output", str(output)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("repository", "role"), [(HEAVY, "heavy"), (LIGHT, "light")])
def test_a_hub_model_becomes_a_bundle(hub, tmp_path, repository, role):
    output = tmp_path / repository.split("/")[1]
    done = export(repository, role, output, hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    section = json.loads((output / "config.json").read_text())["emotion_server"]
    assert section["role"] == role and section["name"] == output.name
    assert repository in section["source"] and COMMIT in section["source"]
    assert len(section["probes"][0]["logits"]) == LABELS
    for name, entry in section["files"].items():
        assert hashlib.sha256((output / name).read_bytes()).hexdigest() == entry["sha256"], name


def test_a_model_that_the_hub_does_not_have_is_named(hub, tmp_path):
    done = export("nobody/nothing", "heavy", tmp_path / "out", hub, tmp_path / "home")
    assert done.returncode == 1 and "nobody/nothing" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_no_network_is_one_clear_line(tmp_path):
    # Port 9 (discard) refuses the connection at once.
    done = export(HEAVY, "heavy", tmp_path / "out", "http://127.0.0.1:9", tmp_path / "home")
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "127.0.0.1:9" in done.stderr, done.stderr
