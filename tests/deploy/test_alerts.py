"""The alerts of Prometheus ask for figures that the server tells."""

import json
import re
import urllib.request

from manifests import ROOT, read
from prometheus_client.parser import text_string_to_metric_families
from real_server import Server

# Told only inside a container with a limit.
AT_TIMES = {"emotion_container_kills_total"}


def test_alerts_ask_for_samples_that_are_there():
    rules = [rule for group in read(ROOT / "deploy" / "prometheus-alerts.yaml")["groups"] for rule in group["rules"]]
    for rule in rules:
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}, rule
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["expr"].count("(") == rule["expr"].count(")")
    server = Server(USE_LIGHT_MODEL="true")
    try:
        body = json.dumps({"text": "What a lovely day!"}).encode()
        request = urllib.request.Request(f"{server.url}/analyze", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=60).close()
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as reply:
            families = list(text_string_to_metric_families(reply.read().decode()))
    finally:
        server.stop()
    there = {sample.name for family in families for sample in family.samples} | AT_TIMES
    asked = {name for rule in rules for name in re.findall(r"\bemotion_[a-z_]+", rule["expr"])}
    assert len(asked) >= 5 and asked <= there, asked - there
