"""The built image runs as it is meant to: without a shell, a writable root or rights, in 512 MB."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from container import LIMIT_MB, MB, PATIENCE_SECONDS, RUN, Image, ServerContainer, engine, start_server

TEXTS = {
    "I am so proud of you, thank you!": "joy",
    "I am terrified of the dark.": "fear",
    "How sad, I cried.": "sadness",
}
ROOT = Path(__file__).resolve().parents[2]
PREPARED_NOW = "prepared weights of goemotions written"


@pytest.fixture(scope="module")
def image():
    """The image that EMOTION_IMAGE names."""
    built = Image(os.environ["EMOTION_IMAGE"])
    yield built
    built.release()


@pytest.fixture
def volume():
    """A volume with a name, which outlives a container."""
    name = engine("volume", "create")
    yield name
    engine("volume", "rm", "--force", name)


@pytest.fixture
def start(image):
    """Starts a server of the image from cold caches; it is removed with the test."""
    started = []

    def start_one(*options: str) -> ServerContainer:
        started.append(start_server(image, *options))
        return started[-1]

    yield start_one
    for server in started:
        server.remove()


@pytest.fixture
def other_processor(tmp_path):
    """Options that let the image meet a processor with one more vector extension than it was made for."""
    told = Path("/proc/cpuinfo").read_text(encoding="ascii")
    changed, count = re.subn(r"^((?:flags|Features)\s*:)", r"\1 avx1024_test", told, flags=re.MULTILINE)
    assert count, told
    file = tmp_path / "cpuinfo"
    file.write_text(changed, encoding="ascii")
    return (f"--volume={file}:/proc/cpuinfo:ro",)


# Options that let the server find no prepared weights in the image.
NOTHING_PREPARED = ("--env=PREPARED_DIR=/opt/emotion-server/lib",)


def at_cache(volume: str) -> str:
    return f"--volume={volume}:/var/cache/emotion-server"


def ask(server: ServerContainer, path: str, body: dict | None = None) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as reply:
        return json.load(reply)


def assert_both_models_answer(server: ServerContainer) -> None:
    for model in ("heavy", "light"):
        for text, emotion in TEXTS.items():
            reply = ask(server, "/analyze", {"text": text, "model": model})
            assert (reply["model"]["role"], reply["fallback"], reply["basic_emotion"]) == (model, None, emotion), reply


def assert_weights_were_there(server: ServerContainer) -> None:
    log = server.log
    assert PREPARED_NOW not in log and "no prepared weights" not in log, log


def test_the_image_says_how_it_is_run(image):
    config, environment = image.config, image.environment
    assert config["User"] == "65532:65532"
    assert image.health_check == ["CMD", "/opt/emotion-server/bin/emotion-server", "health"]
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert list(config["Volumes"]) == [environment["MODEL_CACHE_DIR"]]
    assert environment["HOST"] == "0.0.0.0"
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["licenses"] == "MIT OR Apache-2.0"
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["version"]), labels
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert labels["revision"] == head.strip()


def test_the_image_holds_what_it_needs_and_its_user_can_change_none_of_it(image):
    place = image.root / "opt" / "emotion-server"
    assert {path.name for path in (place / "onnx").iterdir()} == {"goemotions", "ekman"}
    for licence in ("LICENSE-MIT", "LICENSE-APACHE", "NOTICE", "lib/onnxruntime-LICENSE.txt"):
        assert (place / licence).is_file(), licence
    bytes_of = Counter()
    for path in place.rglob("*"):
        found = path.lstat()
        assert found.st_uid == 0, path
        assert path.is_symlink() or not found.st_mode & 0o022, path
        if path.is_file() and not path.is_symlink():
            bytes_of[path.relative_to(place).parts[0]] += found.st_size
    parts = ", ".join(f"{part} {size / 1e6:.0f}" for part, size in bytes_of.most_common() if size > MB)
    print(f"image: {image.size_bytes() / 1e6:.0f} MB of files, of it {parts}")


def test_the_models_in_the_image_are_sound(image):
    told = engine("run", "--rm", *RUN, image.name, "models", "--verify")
    assert told.count("files verified") == 4, told


def test_both_models_answer_at_once_and_under_load_in_512_mb(image, volume, start):
    server = start(at_cache(volume))
    assert_both_models_answer(server)
    assert_weights_were_there(server)
    written = Path(engine("volume", "inspect", "--format={{.Mountpoint}}", volume))
    assert list(written.iterdir()) == []

    check = server.run(*image.health_check[1:])
    assert (check.returncode, json.loads(check.stdout)["ready"]) == (0, True), check

    long_text = " ".join(TEXTS) * 20
    bodies = [
        {"text": f"{text} {number} {long_text if number % 20 == 0 else ''}", "model": ("heavy", "light")[number % 2]}
        for number in range(200)
        for text in TEXTS
    ]
    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(lambda body: ask(server, "/analyze", body), bodies))
    assert [reply for reply in replies if reply["fallback"]] == []
    memory = ask(server, "/health")["memory"]
    assert memory["container_limit_bytes"] == LIMIT_MB * MB, memory
    assert (server.kills, memory["container_kills"]) == (0, 0)
    assert server.peak_bytes <= LIMIT_MB * MB
    print(
        f"{len(replies)} texts in {LIMIT_MB} MB: {server.peak_bytes / MB:.0f} MB at most with page cache, "
        f"{memory['resident_bytes'] / MB:.0f} MB resident, {memory['anonymous_bytes'] / MB:.0f} MB of it anonymous"
    )
    assert server.stop() == 0, server.log


def test_the_weights_of_the_image_fit_another_processor_too(other_processor, start):
    server = start(*other_processor)
    assert_both_models_answer(server)
    assert_weights_were_there(server)


def test_where_the_images_weights_do_not_fit_they_are_prepared_once_in_the_volume(volume, start):
    server = start(at_cache(volume), *NOTHING_PREPARED)
    assert_both_models_answer(server)
    assert PREPARED_NOW in server.log, server.log
    assert server.kills == 0
    assert server.stop() == 0, server.log
    server = start(at_cache(volume), *NOTHING_PREPARED)
    assert_both_models_answer(server)
    assert_weights_were_there(server)


def test_the_engine_makes_a_volume_where_none_is_named(start):
    server = start(*NOTHING_PREPARED)
    assert_both_models_answer(server)
    assert PREPARED_NOW in server.log, server.log


def test_where_they_do_not_fit_and_there_is_no_volume_both_models_answer_from_their_own_files(start):
    server = start("--image-volume=ignore", *NOTHING_PREPARED)
    assert_both_models_answer(server)
    assert "no prepared weights for goemotions" in server.log, server.log
    assert server.kills == 0


def test_the_health_check_fails_where_no_server_listens(image, start):
    server = start()
    check = server.run(*image.health_check[1:], "--port", "1")
    assert check.returncode == 1 and "no answer from 127.0.0.1:1" in check.stderr, check


@pytest.mark.parametrize("manifest", ["kubernetes/deployment.yaml", "kserve/serving-runtime.yaml"])
def test_pods_of_the_manifests_run_it_within_their_limit(manifest, image, tmp_path):
    described = yaml.safe_load((ROOT / "deploy" / manifest).read_text(encoding="utf-8"))["spec"]
    described = described["template"]["spec"] if "template" in described else described
    [container] = described["containers"]
    container["image"] = image.name
    port = free_port()
    container["ports"] = [port_of | {"hostPort": port} for port_of in container["ports"]]
    spec = {key: described[key] for key in described if key in ("containers", "volumes", "securityContext")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "emotion-image-test"}, "spec": spec}
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump(pod), encoding="utf-8")
    try:
        engine("kube", "play", str(file))
        server = ServerContainer(f"emotion-image-test-{container['name']}", port)
        assert_both_models_answer(server)
        assert_weights_were_there(server)
        health = ask(server, "/health")
        assert health["memory"]["container_limit_bytes"] == LIMIT_MB * MB
        assert health["roles"]["heavy"]["workers"] == int(container["resources"]["limits"]["cpu"])
        texts = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["I am so proud of you!"]}
        assert ask(server, "/v2/models/goemotions/infer", {"inputs": [texts]})["model_name"] == "goemotions"
        assert server.stop() == 0, server.log
    finally:
        engine("kube", "down", str(file))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_compose_runs_it_within_its_limit(image):
    described = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    engine("tag", image.name, described["services"]["emotion-server"]["image"])
    command = [sys.executable, "-m", "podman_compose", "--project-name", "emotion-image-test"]

    def compose(*arguments: str) -> None:
        # Published as "127.0.0.1::8080", at a free port of the engine's choice.
        subprocess.run([*command, *arguments], cwd=ROOT, env=os.environ | {"PORT": "127.0.0.1:"}, check=True)

    try:
        compose("up", "--detach", "--no-build")
        server = ServerContainer("emotion-image-test_emotion-server_1")
        assert_both_models_answer(server)
        assert_weights_were_there(server)
        assert ask(server, "/health")["memory"]["container_limit_bytes"] == LIMIT_MB * MB
        check = server.run(*described["services"]["emotion-server"]["healthcheck"]["test"][1:])
        assert check.returncode == 0, check
        assert server.stop() == 0, server.log
    finally:
        compose("down", "--volumes")
