"""Prometheus's own Python parsers read GET /metrics, and the dashboard asks for what is there."""

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import parser as prometheus
from prometheus_client.openmetrics import parser as openmetrics

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana-dashboard.json"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def ask(url, body=None, **headers):
    """Content type and text of the reply."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.headers["Content-Type"], reply.read().decode()


@pytest.fixture(scope="module")
def url(server):
    """A server that has answered with both models, from its cache too, and has unloaded one."""
    for model in ["heavy", "light", "light"]:
        ask(f"{server.url}/analyze", {"texts": ["What a lovely day!", "oh no"], "model": model})
    ask(f"{server.url}/admin/models/light/unload", {}, **{"X-API-Key": "secret"})
    return server.url


@pytest.fixture(scope="module")
def families(url):
    """Metric families by name, as the strict parser reads them."""
    content_type, text = ask(f"{url}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert content_type == OPENMETRICS_TYPE
    return {family.name: family for family in openmetrics.text_string_to_metric_families(text)}


def test_the_strict_openmetrics_parser_reads_everything(families):
    kinds = {name: families[name].type for name in families}
    for name, kind in {
        "emotion_requests": "counter",
        "emotion_request_seconds": "histogram",
        "emotion_queue_seconds": "histogram",
        "emotion_tokenization_seconds": "histogram",
        "emotion_inference_seconds": "histogram",
        "emotion_batch_size_texts": "histogram",
        "emotion_batch_size_tokens": "histogram",
        "emotion_batch_padding_tokens": "counter",
        "emotion_cache_hits": "counter",
        "emotion_cache_bytes": "gauge",
        "emotion_queue_texts": "gauge",
        "emotion_model_state": "gauge",
        "emotion_model_loads": "counter",
        "emotion_model_load_seconds": "gauge",
        "emotion_model_unloads": "counter",
        "emotion_model_unloaded_bytes": "counter",
        "emotion_memory_resident_bytes": "gauge",
        "emotion_memory_unreclaimable_bytes": "gauge",
        "emotion_memory_major_faults": "counter",
        "emotion_panics": "counter",
        "emotion_log_lines_dropped": "counter",
        "emotion_build_info": "gauge",
    }.items():
        assert kinds.get(name) == kind, name
    assert all(family.documentation for family in families.values())
    units = {name: family.unit for name, family in families.items()}
    assert units["emotion_request_seconds"] == "seconds"
    assert units["emotion_memory_resident_bytes"] == "bytes"


def test_histograms_add_up(families):
    for name, family in families.items():
        if family.type != "histogram":
            continue
        for labels in {tuple(sorted((k, v) for k, v in s.labels.items() if k != "le")) for s in family.samples}:
            of = [s for s in family.samples if set(labels) <= set(s.labels.items())]
            buckets = [s.value for s in of if s.name.endswith("_bucket")]
            count = next(s.value for s in of if s.name.endswith("_count"))
            assert buckets == sorted(buckets) and buckets[-1] == count, (name, labels)


def test_every_kind_of_thread_is_told_and_no_defect_was_met(families):
    panics = {sample.labels["thread"]: sample.value for sample in families["emotion_panics"].samples}
    assert {"main", "http", "worker", "loader", "watchdog", "other"} <= set(panics)
    assert not any(panics.values()), panics


def test_a_role_is_in_exactly_one_state(families):
    samples = families["emotion_model_state"].samples
    for role in ["heavy", "light"]:
        states = {s.labels["state"]: s.value for s in samples if s.labels["role"] == role}
        assert sum(states.values()) == 1, states
        assert states["ready" if role == "heavy" else "barred"] == 1, states


def test_the_older_format_has_the_same_samples(url, families):
    content_type, text = ask(f"{url}/metrics", Accept="text/plain")
    assert content_type == PROMETHEUS_TYPE
    older = list(prometheus.text_string_to_metric_families(text))
    assert not [family.name for family in older if family.type in ("unknown", "untyped")]

    def names(families):
        return {sample.name for family in families for sample in family.samples}

    assert names(older) == names(families.values())


def test_no_label_has_a_value_of_a_clients_choice(url):
    for index in range(5):
        with pytest.raises(urllib.error.HTTPError):
            ask(f"{url}/nothing/{index}?q={index}")
    _, text = ask(f"{url}/metrics", Accept="text/plain")
    families = prometheus.text_string_to_metric_families(text)
    routes = {s.labels["route"] for f in families for s in f.samples if "route" in s.labels}
    assert "unmatched" in routes and not [route for route in routes if "nothing" in route], routes


def test_the_dashboard_asks_only_for_samples_that_are_there(url, families):
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel.get("targets", [])
        for name in re.findall(r"\bemotion_[a-z_]+", target["expr"])
    }
    there = {sample.name for family in families.values() for sample in family.samples}
    # Seen only where a limit is set, where the light model had to step in, or inside a container.
    at_times = {
        "emotion_fallbacks_total",
        "emotion_memory_resident_limit_bytes",
        "emotion_memory_unreclaimable_limit_bytes",
        "emotion_memory_container_limit_bytes",
        "emotion_memory_container_usage_bytes",
        "emotion_container_kills_total",
    }
    assert len(asked) > 20
    assert asked - there <= at_times, asked - there
