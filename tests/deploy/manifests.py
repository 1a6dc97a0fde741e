"""What the files that deploy the server say, in one form for all of them."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
RUNTIME = ROOT / "deploy" / "kserve" / "serving-runtime.yaml"
# Variables of other programs that a manifest may set beside the server's settings.
FOREIGN = {"ORT_DISABLE_TELEMETRY"}


def read(path: Path) -> dict:
    """The one document of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@cache
def dockerfile() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile and what follows them, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.strip().split(" ", 1)) for line in lines if line.strip()]


def of_dockerfile(instruction: str) -> list[str]:
    """What follows each such instruction."""
    return [what for name, what in dockerfile() if name == instruction]


def image_variables() -> dict[str, str]:
    """Variables of the image; those that a build argument sets have its default."""
    defaults = dict(re.findall(r"^(\w+)=(\S+)$", "\n".join(of_dockerfile("ARG")), re.MULTILINE))
    pairs = re.findall(r"(\w+)=(\S+)", " ".join(of_dockerfile("ENV")))
    return {name: re.sub(r"\$\{(\w+)\}", lambda found: defaults[found[1]], value) for name, value in pairs}


def pod_specs() -> dict[str, dict]:
    """The pods of Kubernetes and KServe, by file."""
    deployment = ROOT / "deploy" / "kubernetes" / "deployment.yaml"
    return {"kubernetes": read(deployment)["spec"]["template"]["spec"], "kserve": read(RUNTIME)["spec"]}


def probes(container: dict) -> Iterator[str]:
    """Paths that a container's probes ask for."""
    return (container[name]["httpGet"]["path"] for name in container if name.endswith("Probe"))


def variables() -> dict[str, dict[str, str]]:
    """Settings that each way of deploying makes; secrets are an example's."""
    found = {"Dockerfile": image_variables()}
    found["compose.yaml"] = {
        name: re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value)
        for name, value in read(ROOT / "compose.yaml")["services"]["emotion-server"]["environment"].items()
    }
    found["render.yaml"] = {
        entry["key"]: entry.get("value", "secret") for entry in read(ROOT / "render.yaml")["services"][0]["envVars"]
    }
    for name, pod in pod_specs().items():
        found[name] = {entry["name"]: entry.get("value", "secret") for entry in pod["containers"][0]["env"]}
    unit = (ROOT / "deploy" / "emotion-server.service").read_text(encoding="utf-8")
    settings = re.findall(r"^Environment=(.*)$", unit, re.MULTILINE)
    found["systemd"] = dict(pair.split("=", 1) for line in settings for pair in line.split())
    return found
