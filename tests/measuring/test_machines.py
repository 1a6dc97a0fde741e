"""What is made of the results of the small machines that `make vm-test` boots."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

MACHINES = Path(__file__).resolve().parents[1] / "vm" / "machines.py"


@pytest.fixture(scope="module")
def machines():
    spec = importlib.util.spec_from_file_location("machines", MACHINES)
    module = importlib.util.module_from_spec(spec)
    sys.modules["machines"] = module
    spec.loader.exec_module(module)
    return module


def row(case: str, *faults: str, table: str = "containers", **cells: str) -> dict:
    return {"table": table, "case": case, "cells": cells, "faults": list(faults)}


def test_rows_become_a_table_for_each_kind_with_every_column(machines):
    rows = [row("512 MB", answers="heavy", killed="0"), row("128 MB", answers="light")]
    rows.append(row("1 core", table="processors"))
    assert machines.tables(rows).splitlines() == [
        "Both models from cold caches, weights prepared ahead:", "",
        "|  | answers | killed |", "| --- | --- | --- |", "| 512 MB | heavy | 0 |", "| 128 MB | light |  |", "",
        "Quotas of processor time:", "", "|  |", "| --- |", "| 1 core |",
    ]  # fmt: skip


def test_a_fault_is_told_with_its_case(machines):
    rows = [row("512 MB"), row("128 MB", "killed: 1, not 0")]
    assert machines.faults(rows) == ["containers, 128 MB: killed: 1, not 0"]


def test_lines_of_a_serial_port_that_are_no_objects_are_passed_by(machines):
    lines = ["[    0.1] kernel message", '{"all of": "small"}', '{"half', "5", ""]
    assert list(machines.objects(lines)) == [{"all of": "small"}]


def small(machines, monkeypatch, script: str, seconds: float = 30):
    """A machine whose qemu is a shell script that gets the folder of the images."""
    monkeypatch.setattr(machines, "qemu", lambda images, *_: ["/bin/sh", "-c", script, "qemu", str(images)])
    return machines.Machine("small", 512, "v2", seconds)


def test_a_machine_that_checked_everything_gives_its_rows(machines, monkeypatch, tmp_path):
    lines = [json.dumps(row("no limit", table="limits")), json.dumps({"all of": "small"})]
    (tmp_path / "made").write_text("\r\n".join(lines))
    machine = small(machines, monkeypatch, 'cp "$1/made" "$1/small.results"')
    assert machines.checked(tmp_path, machine, "tcg") == [row("no limit", table="limits")]


def test_a_machine_that_hangs_is_ended_and_is_a_fault(machines, monkeypatch, tmp_path):
    machine = small(machines, monkeypatch, 'echo booting >"$1/small.console"; exec sleep 60', seconds=1)
    rows = machines.checked(tmp_path, machine, "tcg")
    assert machines.faults(rows) == ["machine, small: not done after 1 s", "machine, small: booting"]


def test_a_machine_that_ends_early_is_a_fault(machines, monkeypatch, tmp_path):
    machine = small(machines, monkeypatch, 'echo oops >&2; echo panic >"$1/small.console"; exit 1')
    rows = machines.checked(tmp_path, machine, "tcg")
    assert machines.faults(rows) == ["machine, small: qemu ended with 1: oops", "machine, small: panic"]
