"""What deploys the server names settings, paths and files that there are, in the forms that each host reads."""

import re
import shutil
import subprocess
import sys
import urllib.request

import kserve.models
import kubernetes_validate
import manifests
import pytest
import yaml
from manifests import FOREIGN, KUBERNETES, ROOT, RUNTIME, read
from real_server import Server, program

SHUTDOWN_TIMEOUT_SECONDS = 30
MEMORY = "512Mi"


@pytest.fixture(scope="module")
def settings():
    """Variables that the server takes, as its help lists them."""
    told = subprocess.run([program(), "serve", "--help"], check=True, capture_output=True, text=True).stdout
    found = set(re.findall(r"\[env:\s+(\w+)", told))
    assert len(found) > 25, told
    return found


@pytest.mark.parametrize("place", manifests.variables())
def test_every_variable_is_a_setting_and_a_server_starts_with_it(place, settings):
    values = manifests.variables()[place]
    assert set(values) - settings - FOREIGN == set()
    here = {name: value for name, value in values.items() if not name.endswith("_DIR")}
    server = Server(**here | {"PORT": "0", "PRELOAD_MODELS": "none"})
    try:
        assert_ready(server)
        assert not [line for line in server.log if "WARN" in line or "ERROR" in line], server.log
    finally:
        server.stop()


def assert_ready(server: Server) -> None:
    assert status(server, "/readyz") == 200


def status(server: Server, path: str) -> int:
    with urllib.request.urlopen(server.url + path, timeout=60) as reply:
        return reply.status


def test_the_image_starts_what_is_in_it_with_the_pinned_releases():
    arguments = dict(what.split("=", 1) for what in manifests.of_dockerfile("ARG") if "=" in what)
    toolchain = re.search(r'^channel = "(.*)"$', (ROOT / "rust-toolchain.toml").read_text(), re.MULTILINE)[1]
    assert arguments["RUST_IMAGE"].startswith(f"rust:{toolchain}-"), arguments
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [what.split()[:-1] for what in manifests.of_dockerfile("COPY") if not what.startswith("--from=")]
    assert sorted(let_in) == sorted(path for paths in copied for path in paths)
    assert [path for path in let_in if not (ROOT / path).exists()] == []


def test_versions_of_images_are_that_of_the_program():
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    compose = read(ROOT / "compose.yaml")["services"]["emotion-server"]["image"]
    [kustomized] = read(ROOT / "deploy" / "kubernetes" / "kustomization.yaml")["images"]
    runtime = manifests.pod_specs()["kserve"]["containers"][0]["image"]
    assert {compose, f"{kustomized['name']}:{kustomized['newTag']}", runtime} == {f"emotion-server:{version}"}


@pytest.mark.parametrize("path", [path for path in KUBERNETES if path.stem != "kustomization"], ids=lambda p: p.stem)
def test_kubernetes_knows_every_field(path):
    kubernetes_validate.validate(read(path), kubernetes_validate.latest_version(), strict=True)


def test_kustomize_lists_every_file_and_every_selector_meets_the_pods():
    kustomization = read(ROOT / "deploy" / "kubernetes" / "kustomization.yaml")
    assert {*kustomization["resources"], "kustomization.yaml"} == {path.name for path in KUBERNETES}
    deployment, service, autoscaler, budget = (
        read(ROOT / "deploy" / "kubernetes" / f"{name}.yaml")
        for name in ("deployment", "service", "autoscaler", "disruption-budget")
    )
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"] == labels
    target = autoscaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (deployment["kind"], deployment["metadata"]["name"])
    ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_kustomize_builds():
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; on Debian: apt-get install kubernetes-client")
    command = ["kubectl", "kustomize", str(ROOT / "deploy" / "kubernetes")]
    built = list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert sorted(document["kind"] for document in built) == [
        "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service",
    ]  # fmt: skip


def assert_fields_of(kind: str, told: dict, place: str) -> None:
    """KServe's models have each field; parts of Kubernetes' own are checked in a pod."""
    model = getattr(kserve.models, kind, None)
    if model is None:
        return
    attributes = {key: attribute for attribute, key in model.attribute_map.items()}
    assert set(told) - set(attributes) - {"apiVersion", "kind"} == set(), place
    model(**{attributes[key]: value for key, value in told.items()})
    for key, value in told.items():
        part = re.sub(r"^list\[(.*)\]$", r"\1", model.openapi_types[attributes[key]])
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                assert_fields_of(part, item, f"{place}.{key}")


def test_kserve_knows_every_field():
    service = read(ROOT / "deploy" / "kserve" / "inference-service.yaml")
    runtime = read(RUNTIME)
    assert_fields_of("V1beta1InferenceService", service, "InferenceService")
    assert_fields_of("V1alpha1ServingRuntime", runtime, "ServingRuntime")
    pod = {name: runtime["spec"][name] for name in ("containers", "volumes")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runtime"}, "spec": pod}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    predictor = service["spec"]["predictor"]
    assert predictor["minReplicas"] == 0
    asked = predictor["model"]
    assert asked["runtime"] == runtime["metadata"]["name"]
    assert asked["protocolVersion"] in runtime["spec"]["protocolVersions"]
    formats = [(known["name"], known["version"]) for known in runtime["spec"]["supportedModelFormats"]]
    assert (asked["modelFormat"]["name"], asked["modelFormat"]["version"]) in formats
    assert (ROOT / "onnx" / service["metadata"]["name"] / "config.json").is_file(), "clients ask for it by this name"
    # Knative sets it and refuses those who do.
    assert "PORT" not in manifests.variables()["kserve"]


@pytest.mark.parametrize("name", manifests.pod_specs())
def test_pods_run_as_the_image_does_within_512_mb_without_rights(name):
    pod = manifests.pod_specs()[name]
    [container] = pod["containers"]
    user = int(manifests.of_dockerfile("USER")[0].split(":")[0])
    security = container["securityContext"] | pod.get("securityContext", {})
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, user)
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"] == MEMORY
    assert container["resources"]["requests"] == {"cpu": "250m", "memory": MEMORY}
    [mount] = container["volumeMounts"]
    [volume] = pod["volumes"]
    assert mount["mountPath"] == manifests.image_variables()["MODEL_CACHE_DIR"]
    # One in memory would be refused by the server.
    assert volume["name"] == mount["name"] and "medium" not in volume["emptyDir"]


def test_probes_ask_for_paths_that_answer_without_a_key():
    render = read(ROOT / "render.yaml")["services"][0]["healthCheckPath"]
    paths = {path for pod in manifests.pod_specs().values() for path in manifests.probes(pod["containers"][0])}
    haproxy = re.findall(r"http-check send meth GET uri (\S+)", (ROOT / "deploy" / "haproxy.cfg").read_text())
    assert len(paths) == 2 and len(haproxy) == 1, paths
    server = Server(API_KEY="secret")
    try:
        for path in paths | {render, *haproxy}:
            assert status(server, path) == 200, path
    finally:
        server.stop()


def test_there_is_time_to_finish_before_the_kill():
    pod = manifests.pod_specs()["kubernetes"]
    assert manifests.variables()["kubernetes"]["SHUTDOWN_TIMEOUT"] == str(SHUTDOWN_TIMEOUT_SECONDS)
    assert pod["terminationGracePeriodSeconds"] > SHUTDOWN_TIMEOUT_SECONDS
    compose = read(ROOT / "compose.yaml")["services"]["emotion-server"]
    assert int(compose["stop_grace_period"].removesuffix("s")) > SHUTDOWN_TIMEOUT_SECONDS
    unit = (ROOT / "deploy" / "emotion-server.service").read_text()
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1]) > SHUTDOWN_TIMEOUT_SECONDS


def test_compose_knows_every_field():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, str(ROOT / "compose.yaml")], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_compose_runs_the_image_as_it_says():
    compose = read(ROOT / "compose.yaml")
    service = compose["services"]["emotion-server"]
    assert (service["mem_limit"], service["memswap_limit"]) == ("512m", "512m")
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["volumes"] == [
        f"{name}:{manifests.image_variables()['MODEL_CACHE_DIR']}" for name in compose["volumes"]
    ]
    [health_check] = manifests.of_dockerfile("HEALTHCHECK")
    assert (
        health_check.split("CMD ", 1)[1]
        == yaml.safe_dump(
            service["healthcheck"]["test"][1:], default_flow_style=True, default_style='"', width=200
        ).strip()
    )


def test_render_builds_this_image_on_the_free_plan():
    # There is no schema of these files in a registry: what is used of them is listed by hand.
    blueprint = read(ROOT / "render.yaml")
    assert list(blueprint) == ["services"]
    [service] = blueprint["services"]
    assert set(service) == {
        "type", "name", "runtime", "plan", "dockerfilePath", "dockerContext", "healthCheckPath", "envVars",
    }  # fmt: skip
    assert (service["type"], service["runtime"], service["plan"]) == ("web", "docker", "free")
    assert (ROOT / service["dockerfilePath"]).is_file() and (ROOT / service["dockerContext"]).is_dir()
    for entry in service["envVars"]:
        assert set(entry) in ({"key", "value"}, {"key", "generateValue"}), entry
        assert isinstance(entry.get("value", ""), str), "numbers are written as strings"


def test_systemd_knows_every_line(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (ROOT / "deploy" / "emotion-server.service").read_text()
    [entrypoint] = yaml.safe_load(manifests.of_dockerfile("ENTRYPOINT")[0])
    assert f"ExecStart={entrypoint} serve\n" in unit
    copy = tmp_path / "emotion-server.service"
    copy.write_text(unit.replace(entrypoint, program()))
    checked = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr
