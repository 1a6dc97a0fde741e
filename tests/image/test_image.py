"""The built image runs as it is meant to: without a shell, a writable root or rights, in 512 MB."""

import json
import os
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from container import MB, PATIENCE_SECONDS, Image, ImageServer, MemoryGroup

LIMIT_MB = 512
TEXTS = {
    "I am so proud of you, thank you!": "joy",
    "I am terrified of the dark.": "fear",
    "How sad, I cried.": "sadness",
}
PREPARED_NOW = "prepared weights of goemotions written"


@pytest.fixture(scope="module")
def image():
    """The image that EMOTION_IMAGE names."""
    built = Image(os.environ["EMOTION_IMAGE"])
    yield built
    built.remove()


@pytest.fixture
def group():
    """A memory limit as a host of 512 MB sets it."""
    made = MemoryGroup(LIMIT_MB)
    yield made
    made.remove()


@pytest.fixture
def volume(tmp_path):
    """What an engine mounts for the image's volume: on a disk, and the user's own."""
    folder = tmp_path / "volume"
    folder.mkdir()
    os.chown(folder, 65532, 65532)
    return folder


@pytest.fixture
def start(image, group):
    """Starts a server of the image from cold caches; it is ended with the test."""
    started = []

    def start_one(**places) -> ImageServer:
        image.drop_from_page_cache()
        started.append(ImageServer(image, group, **places))
        return started[-1]

    yield start_one
    for server in started:
        server.stop()


def ask(server: ImageServer, path: str, body: dict | None = None) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as reply:
        return json.load(reply)


def assert_both_models_answer(server: ImageServer) -> None:
    for model in ("heavy", "light"):
        for text, emotion in TEXTS.items():
            reply = ask(server, "/analyze", {"text": text, "model": model})
            assert (reply["model"]["role"], reply["fallback"], reply["basic_emotion"]) == (model, None, emotion), reply


def test_the_image_says_how_it_is_run(image):
    config, environment = image.config, image.environment
    assert config["User"] == "65532:65532"
    assert config["Healthcheck"]["Test"] == ["CMD", "/opt/emotion-server/bin/emotion-server", "health"]
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert list(config["Volumes"]) == [environment["MODEL_CACHE_DIR"]]
    assert environment["HOST"] == "0.0.0.0"
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["licenses"] == "MIT OR Apache-2.0"
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["version"]), labels
    assert re.fullmatch(r"[0-9a-f]{40}", labels["revision"]), labels


def test_the_image_holds_what_it_needs_and_its_user_can_change_none_of_it(image):
    place = image.root / "opt" / "emotion-server"
    assert {path.name for path in (place / "onnx").iterdir()} == {"goemotions", "ekman"}
    for licence in ("LICENSE-MIT", "LICENSE-APACHE", "NOTICE", "lib/onnxruntime-LICENSE.txt"):
        assert (place / licence).is_file(), licence
    for path in place.rglob("*"):
        found = path.lstat()
        assert found.st_uid == 0, path
        assert path.is_symlink() or not found.st_mode & 0o022, path
    print(f"image: {image.size_bytes() / 1e6:.0f} MB of files, {sizes_mb(place)}")


def test_the_models_in_the_image_are_sound(image, group):
    verify = image.start([*image.config["Entrypoint"], "models", "--verify"], group)
    told, error = verify.communicate(timeout=PATIENCE_SECONDS)
    assert verify.returncode == 0 and told.count("files verified") == 4, told + error


def sizes_mb(place: Path) -> str:
    parts = {}
    for path in place.rglob("*"):
        if path.is_file() and not path.is_symlink():
            part = path.relative_to(place).parts[0]
            parts[part] = parts.get(part, 0) + path.stat().st_size
    return ", ".join(f"{part} {size / 1e6:.0f}" for part, size in sorted(parts.items()) if size > MB)


def test_both_models_answer_at_once_and_under_load_in_512_mb(image, group, volume, start):
    server = start(volume=volume)
    assert_both_models_answer(server)
    assert PREPARED_NOW not in server.log and "no prepared weights" not in server.log, server.log
    assert list(volume.iterdir()) == [], "nothing had to be written"

    check = image.start(image.config["Healthcheck"]["Test"][1:], group, PORT=str(server.port))
    told, _ = check.communicate(timeout=PATIENCE_SECONDS)
    assert (check.returncode, json.loads(told)["ready"]) == (0, True)

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
    assert (group.kills, memory["container_kills"]) == (0, 0)
    assert group.peak_bytes <= LIMIT_MB * MB
    print(
        f"{len(replies)} texts in {LIMIT_MB} MB: {group.peak_bytes / MB:.0f} MB at most with page cache, "
        f"{memory['resident_bytes'] / MB:.0f} MB resident, {memory['anonymous_bytes'] / MB:.0f} MB of it anonymous"
    )
    assert server.terminate() == 0, server.log


def test_on_another_processor_weights_are_prepared_once_in_the_volume(tmp_path, group, volume, start):
    cpuinfo = other_processor(tmp_path)
    server = start(volume=volume, cpuinfo=cpuinfo)
    assert_both_models_answer(server)
    assert PREPARED_NOW in server.log, server.log
    assert server.terminate() == 0, server.log
    server = start(volume=volume, cpuinfo=cpuinfo)
    assert_both_models_answer(server)
    assert PREPARED_NOW not in server.log and "no prepared weights" not in server.log, server.log
    assert group.kills == 0


def test_on_another_processor_without_a_volume_both_models_answer_from_their_own_files(tmp_path, group, start):
    server = start(cpuinfo=other_processor(tmp_path))
    assert_both_models_answer(server)
    assert "no prepared weights for goemotions" in server.log, server.log
    assert group.kills == 0


def other_processor(folder: Path) -> Path:
    """What the kernel would tell of a processor with one more vector extension."""
    told = Path("/proc/cpuinfo").read_text(encoding="ascii")
    changed, count = re.subn(r"^((?:flags|Features)\s*:)", r"\1 avx1024_test", told, flags=re.MULTILINE)
    assert count, told
    file = folder / "cpuinfo"
    file.write_text(changed, encoding="ascii")
    return file


def test_the_health_check_fails_where_no_server_runs(image, group):
    check = image.start(image.config["Healthcheck"]["Test"][1:], group, PORT="1")
    _, error = check.communicate(timeout=PATIENCE_SECONDS)
    assert check.returncode == 1 and "no answer from 127.0.0.1:1" in error, error
