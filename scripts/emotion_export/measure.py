"""What a graph needs in memory, measured in child processes so that nothing measured before is still held.

Run as a program it is such a child: one JSON job as its argument, one JSON result on standard output.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .products import use_exact_products

PREPARED_GRAPH = "prepared.onnx"
PREPARED_WEIGHTS = "prepared.bin"
# [batch, sequence] of the runs that the activation figures are fitted to.
SHAPES = [(1, 64), (1, 128), (1, 256), (1, 512), (2, 256), (4, 128), (8, 20), (8, 64), (32, 16), (25, 20), (16, 64)]
MARGIN = 1.1


def memory_need(graph: Path, heads: int, positions: int) -> dict:
    """The objects `memory`, `activation` and `activation_plain` of a precision in a bundle's config.json."""
    with tempfile.TemporaryDirectory(prefix="prepared-") as scratch:
        preparing = _child({"job": "prepare", "graph": str(graph), "folder": scratch})
        prepared = Path(scratch) / PREPARED_GRAPH
        memory = {
            "plain": _child({"job": "sessions", "graph": str(graph), "plain": True}),
            "prepared": _child({"job": "sessions", "graph": str(prepared), "plain": False}),
            "preparing_peak_bytes": preparing["peak_bytes"],
        }
        activation = {
            "activation": _activation(prepared, False, heads, positions),
            # Without prepacking, weights are packed or unpacked anew for each run.
            "activation_plain": _activation(graph, True, heads, positions),
        }
    return {"memory": memory, **activation}


def _activation(graph: Path, plain: bool, heads: int, positions: int) -> dict:
    growth = []
    for batch, sequence in SHAPES:
        if sequence <= positions:
            run = _child({"job": "run", "graph": str(graph), "plain": plain, "batch": batch, "sequence": sequence})
            growth.append((batch * sequence, batch * heads * sequence**2, run["growth_bytes"]))
    return fit_activation(growth)


def fit_activation(growth: list[tuple[int, int, int]]) -> dict:
    """The least pair of rates that covers every (tokens, attention cells, bytes), and a margin on top."""

    def token_rate(cell_rate: float) -> float:
        return max(0.0, max((grown - cells * cell_rate) / tokens for tokens, cells, grown in growth))

    def excess(cell_rate: float) -> float:
        rate = token_rate(cell_rate)
        return sum(tokens * rate + cells * cell_rate - grown for tokens, cells, grown in growth)

    highest = max(grown / cells for _, cells, grown in growth)
    best = min((highest * step / 200 for step in range(201)), key=excess)
    return {
        "bytes_per_token": int(token_rate(best) * MARGIN) + 1,
        "bytes_per_attention_cell": round(best * MARGIN + 0.005, 2),
    }


def _child(job: dict) -> dict:
    scripts = str(Path(__file__).resolve().parents[1])
    environment = dict(os.environ, ORT_DISABLE_TELEMETRY="1", PYTHONPATH=scripts)
    command = [sys.executable, "-m", __name__, json.dumps(job)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"measuring {job} failed:\n{run.stderr.strip()}")
    return json.loads(run.stdout)


def _options(plain: bool):
    """Session options as the server sets them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = True
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    use_exact_products(options)
    if plain:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _session(job: dict, options=None):
    import onnxruntime

    options = options or _options(job["plain"])
    return onnxruntime.InferenceSession(job["graph"], options, providers=["CPUExecutionProvider"])


def _run(session, batch: int, sequence: int):
    import numpy

    ones = numpy.ones((batch, sequence), numpy.int64)
    # Ids spread over a small vocabulary: real tokens, none of them padding.
    feed = {"input_ids": 5 + numpy.arange(batch * sequence).reshape(batch, sequence) % 50, "attention_mask": ones}
    if len(session.get_inputs()) == 3:
        feed["token_type_ids"] = ones * 0
    session.run(None, feed)


def _anonymous_bytes() -> int:
    return _smaps_bytes(Path("/proc/self/smaps_rollup").read_text(), "Anonymous")


def _smaps_bytes(text: str, field: str) -> int:
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{field}:"))


def _mapped_bytes(folder: Path) -> int:
    """Size of every mapping of a file in `folder`."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and Path(parts[5]).parent == folder:
            begin, end = (int(edge, 16) for edge in parts[0].split("-"))
            total += end - begin
    return total


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _measure_sessions(job: dict) -> dict:
    before = _anonymous_bytes()
    first = _session(job)
    _run(first, 1, 16)
    with_first = _anonymous_bytes()
    mapped = _mapped_bytes(Path(job["graph"]).resolve().parent)
    second = _session(job)
    _run(second, 1, 16)
    with_second = _anonymous_bytes()
    return {
        "first_session_bytes": with_first - before,
        "next_session_bytes": with_second - with_first,
        "mapped_bytes": mapped,
    }


def _measure_run(job: dict) -> dict:
    session = _session(job)
    _run(session, 1, 16)
    before = _anonymous_bytes()
    # The arena keeps what a run took, so what is held afterwards is what the run needed.
    _run(session, job["batch"], job["sequence"])
    return {"growth_bytes": max(0, _anonymous_bytes() - before)}


def _measure_prepare(job: dict) -> dict:
    options = _options(plain=False)
    options.optimized_model_filepath = str(Path(job["folder"]) / PREPARED_GRAPH)
    entries = {
        "session.optimized_model_external_initializers_file_name": PREPARED_WEIGHTS,
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        "session.save_external_prepacked_constant_initializers": "1",
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    before = _status_bytes("VmRSS")
    _session(job, options)
    return {"peak_bytes": _status_bytes("VmHWM") - before}


def _main():
    import numpy  # noqa: F401  (loaded before anything is measured)
    import onnxruntime  # noqa: F401

    job = json.loads(sys.argv[1])
    jobs = {"sessions": _measure_sessions, "run": _measure_run, "prepare": _measure_prepare}
    print(json.dumps(jobs[job["job"]](job)))


if __name__ == "__main__":
    _main()
