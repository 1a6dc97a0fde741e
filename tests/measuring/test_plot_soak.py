"""The picture and the tables that are made of what `make soak` measured."""

import json
import re

import pytest

import plot_soak


def sample(seconds: float, requests: int, resident: float, anonymous: float) -> dict:
    memory = {"proportional_mb": resident, "anonymous_mb": anonymous, "mapped_mb": resident + 10}
    return {"seconds": seconds, "requests": requests, "usage_mb": resident + 40, **memory}


@pytest.fixture
def report() -> dict:
    first, last = sample(20, 1000, 180.2, 40.1), sample(900, 20000, 185.4, 44.4)
    return {
        "machine": {"cpu": "Quick CPU", "cores": 2, "vnni": [], "memory_mb": 8000, "kernel": "6.1.0",
                    "load_average": 0.04},
        "server_version": "0.1.0", "limit_mb": 512, "clients": 16, "requests": 20000, "texts": 31000,
        "unknown_texts": 6200, "busy_seconds": 800.0, "failures": 0, "first_failures": [], "kills": 0,
        "counts": [
            {"kind": "analyze", "end": "200", "requests": 7800},
            {"kind": "mistake", "end": "400", "requests": 500},
            {"kind": "mistake", "end": "422", "requests": 100},
        ],
        "first_floor": first, "last_floor": last, "samples": [first, sample(400, 9000, 290.0, 130.0), last],
    }  # fmt: skip


def test_the_tables_tell_the_floors_the_growth_and_the_most(report):
    lines = plot_soak.markdown(report).splitlines()
    assert "| MB | at rest after 1,000 requests | after 20,000 | grown | most |" in lines
    assert "| resident | 180 | 185 | +5.2 | 290 |" in lines
    assert "| anonymous | 40 | 44 | +4.3 | 130 |" in lines


def test_the_tables_tell_how_each_kind_of_request_ended(report):
    lines = plot_soak.markdown(report).splitlines()
    assert "| analyze | 7,800 × 200 |" in lines
    assert "| mistake | 500 × 400, 100 × 422 |" in lines


def test_the_first_line_tells_the_machine_the_rate_the_failures_and_the_kills(report):
    first = plot_soak.markdown(report | {"failures": 3, "kills": 1}).splitlines()[0]
    assert "on 2 cores of Quick CPU (no VNNI)" in first and "in 512 MB: 20,000 requests" in first
    assert "25 requests a second" in first
    assert "3 requests did not end as they were meant to; the kernel killed 1 times" in first


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="No such file"):
        plot_soak.main([str(tmp_path / "missing.json"), "--png", str(tmp_path / "soak.png")])


def test_the_picture_is_drawn_at_twice_900_pixels(report, tmp_path):
    pytest.importorskip("matplotlib", reason="scripts/requirements-report.txt is not installed")
    figures, png = tmp_path / "soak.json", tmp_path / "soak.png"
    figures.write_text(json.dumps(report))
    plot_soak.main([str(figures), "--png", str(png)])
    header = png.read_bytes()[:24]
    assert re.match(rb"\x89PNG", header) and int.from_bytes(header[16:20], "big") == 1800
