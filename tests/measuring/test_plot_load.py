"""The picture and the tables that are made of what `make load` measured."""

import copy
import json
import re

import pytest

import plot_load

ROW = {
    "role": "heavy", "precision": "int8", "cache_mb": 0, "load": "closed", "clients": 8, "rate": None, "texts": 900,
    "seconds": 6.0, "texts_per_second": 150.0, "p50_ms": 40.25, "p90_ms": 90.0, "p99_ms": 300.0, "errors": 2,
    "batches": 300, "tokens": 33000, "texts_per_batch": 3.0, "padding_share": 0.0, "attention_padding_share": 0.125,
    "cache_hit_share": 0.0, "server_cpu_seconds": 10.0, "texts_per_cpu_second": 90.0,
    "ceiling": {"texts_per_cpu_second": 100.0, "texts_per_second": 170.0, "ratio": 0.9, "ratio_rounds": [0.9]},
    "most_memory": {"proportional_mb": 160.4, "anonymous_mb": 40.0, "mapped_mb": 260.0},
}  # fmt: skip


def row(**different) -> dict:
    return copy.deepcopy(ROW) | different


@pytest.fixture
def report() -> dict:
    return {
        "machine": {
            "cpu": "Quick CPU", "cores": 2, "vnni": [], "memory_mb": 8000, "kernel": "6.1.0", "load_average": 0.04,
        },
        "server_version": "0.1.0", "inference_threads": 2, "max_batch_tokens": 512, "seconds": 2.0, "rounds": 3,
        "rows": [
            row(clients=32, texts_per_second=170.0),
            row(),
            row(load="open", clients=None, rate=119.7),
            row(cache_mb=8, cache_hit_share=0.875, ceiling=None),
            row(role="light", clients=1, texts_per_second=300.0, texts=0, p50_ms=None, p90_ms=None, p99_ms=None),
            row(role="light", precision="int4"),
        ],
        "lone": [{"role": "heavy", "precision": "int8", "requests": 200, "server_p50_ms": 10.5, "bare_p50_ms": 9.8,
                  "added_p50_ms": 0.642}],
    }  # fmt: skip


def cells(markdown: str, heading: str) -> list[dict[str, str]]:
    """The rows of the table behind a line of text, by the names of their columns."""
    lines = markdown.split(f"{heading}\n\n")[1].split("\n\n")[0].splitlines()
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(line) for line in split} == {len(split[0])}, "every row has every column"
    return [dict(zip(split[0], line, strict=True)) for line in split[2:]]


def test_the_table_without_a_cache_has_each_row_beside_the_bare_session(report):
    rows = cells(plot_load.markdown(report), "Cache off:")
    assert [(found["model"], found["load"]) for found in rows] == [
        ("heavy int8", "32 clients"), ("heavy int8", "8 clients"), ("heavy int8", "120 requests a second"),
        ("light int8", "1 client"), ("light int4", "8 clients"),
    ]  # fmt: skip
    assert rows[1] == {
        "model": "heavy int8", "load": "8 clients", "texts/s": "150.0", "p50 ms": "40.2", "p90 ms": "90.0",
        "p99 ms": "300.0", "errors": "2", "texts a batch": "3.0", "padding % (in attention)": "0.0 (12.5)",
        "texts per CPU-s": "90.0", "bare": "100.0", "ratio": "0.900", "bare texts/s": "170.0",
        "most MB (anonymous)": "160 (40)",
    }  # fmt: skip
    assert rows[3]["p99 ms"] == "–", "where every request failed there is no latency"


def test_the_table_with_a_cache_has_what_the_cache_answered_and_no_ceiling(report):
    [found] = cells(plot_load.markdown(report), "Cache of 8 MB:")
    assert found["from the cache %"] == "87.5" and "ratio" not in found


def test_what_the_server_adds_to_a_lone_text_is_a_table_of_its_own(report):
    [found] = cells(plot_load.markdown(report), "One text after the other:")
    assert found["server p50 ms"] == "10.50" and found["added p50 ms"] == "0.64"


def test_the_tables_name_the_machine_the_version_and_the_length_of_the_rounds(report):
    first = plot_load.markdown(report).splitlines()[0]
    assert "emotion-server 0.1.0 on 2 cores of Quick CPU (no VNNI), 8000 MB" in first
    assert "rounds 3, of 2 s each" in first
    report["machine"]["vnni"] = ["avx512_vnni", "avx_vnni"]
    assert "(avx512_vnni and avx_vnni)" in plot_load.markdown(report)


def test_drawn_are_closed_loops_without_a_cache_that_served_something_by_clients(report):
    drawn = plot_load.closed_rows(report, "int8")
    assert {role: [found["clients"] for found in rows] for role, rows in drawn.items()} == {"heavy": [8, 32]}
    assert list(plot_load.closed_rows(report, "int4")) == ["light"]


def test_a_file_without_what_is_asked_for_is_an_error_and_leaves_no_picture(report, tmp_path):
    report["rows"] = [found for found in report["rows"] if found["precision"] == "int8"]
    figures, png = tmp_path / "load.json", tmp_path / "load.png"
    figures.write_text(json.dumps(report))
    with pytest.raises(SystemExit, match="no closed loop of int4"):
        plot_load.main([str(figures), "--precision", "int4", "--png", str(png)])
    with pytest.raises(SystemExit, match="No such file"):
        plot_load.main([str(tmp_path / "missing.json"), "--markdown"])
    assert not png.exists()


def test_the_picture_is_drawn_at_twice_900_pixels(report, tmp_path):
    pytest.importorskip("matplotlib", reason="scripts/requirements-report.txt is not installed")
    figures, png = tmp_path / "load.json", tmp_path / "load.png"
    figures.write_text(json.dumps(report))
    plot_load.main([str(figures), "--png", str(png)])
    header = png.read_bytes()[:24]
    assert re.match(rb"\x89PNG", header) and int.from_bytes(header[16:20], "big") == 1800
