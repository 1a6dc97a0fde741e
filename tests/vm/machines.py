#!/usr/bin/env python3
"""
Boots small machines one after the other, runs the checks in each, and prints what they found as tables.

    machines.py IMAGES [--only NAME…]

IMAGES is the folder of make_images.sh; consoles and results of the machines go there too. KVM is used where it works,
else the processor is emulated, without VNNI and slowly. Ends with 1 where something is not as it should be.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

KVM = Path("/dev/kvm")
KVM_TRIAL_SECONDS = 20
PROCESSORS = 2


@dataclass(frozen=True)
class Machine:
    """One boot: its memory, how control groups are mounted in it, and how long its checks may take."""

    checks: str
    memory_mb: int
    cgroups: str
    seconds: int


MACHINES = (
    Machine("containers", 2048, "v2", 1200),
    Machine("groups", 2048, "v2", 1800),
    Machine("small", 512, "v2", 600),
    Machine("hybrid", 1024, "hybrid", 600),
)
TITLES = {
    "containers": "Both models from cold caches, weights prepared ahead",
    "processors": "Quotas of processor time",
    "limits": "Which limit counts",
    "changes": "What changes while it runs",
    "small machine": "A machine of 512 MB",
}


def qemu(images: Path, machine: Machine, accelerator: str) -> list[str]:
    """The command that boots a machine and ends when it turns itself off."""
    processor = "host,arch-capabilities=off" if accelerator == "kvm" else "max"
    drive = f"file={images / 'disk.img'},format=raw,if=virtio,cache=unsafe,snapshot=on"
    ours = f"cgroups={machine.cgroups} checks={machine.checks} seconds={machine.seconds}"
    return [
        "qemu-system-x86_64", "-accel", accelerator, "-cpu", processor, "-smp", str(PROCESSORS),
        "-m", str(machine.memory_mb), "-nodefaults", "-nic", "none", "-display", "none", "-no-reboot",
        "-kernel", str(images / "kernel"), "-initrd", str(images / "ramdisk.gz"),
        "-append", f"console=ttyS0 panic=-1 quiet {ours}", "-drive", drive,
        "-serial", f"file:{images / machine.checks}.console", "-serial", f"file:{images / machine.checks}.results",
    ]  # fmt: skip


def run(command: list[str], seconds: float, done=lambda: False) -> str | None:
    """Runs until it ends, or until `done`; else says why it did not end well. Leaves no process behind."""
    until = time.monotonic() + seconds
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None:
                if done():
                    return None
                if time.monotonic() > until:
                    return f"not done after {seconds:.0f} s"
                time.sleep(0.2)
        finally:
            process.kill()
            said = process.stderr.read()
    return None if process.returncode == 0 else f"qemu ended with {process.returncode}: {said.strip()}"


def best_accelerator(images: Path) -> str:
    """KVM if a machine comes up with it: that a host has the device does not mean that it works there."""
    if not os.access(KVM, os.R_OK | os.W_OK):
        return "tcg"
    trial = Machine("trial", 512, "v2", KVM_TRIAL_SECONDS)
    results = images / "trial.results"
    results.unlink(missing_ok=True)
    fault = run(qemu(images, trial, "kvm"), trial.seconds, lambda: results.is_file() and results.stat().st_size > 0)
    return "tcg" if fault else "kvm"


def objects(lines: Iterable[str]) -> Iterator[dict]:
    """The JSON objects among the lines of a serial port."""
    for line in lines:
        with contextlib.suppress(ValueError):
            if isinstance(value := json.loads(line), dict):
                yield value


def checked(images: Path, machine: Machine, accelerator: str) -> list[dict]:
    """Boots a machine; a row for each case, and one for what kept it from checking all of them."""
    results = images / f"{machine.checks}.results"
    results.unlink(missing_ok=True)
    fault = run(qemu(images, machine, accelerator), machine.seconds)
    found = list(objects(results.read_text(errors="replace").splitlines())) if results.is_file() else []
    if {"all of": machine.checks} not in found:
        last = (images / f"{machine.checks}.console").read_text(errors="replace").splitlines()[-5:]
        what = fault or "the machine ended before all checks were done"
        found.append({"table": "machine", "case": machine.checks, "cells": {}, "faults": [what, *last]})
    return [row for row in found if "table" in row]


def tables(rows: list[dict]) -> str:
    """The rows as Markdown, a table for each kind; columns in the order in which they come up."""
    parts = []
    for name, title in TITLES.items():
        ours = [row for row in rows if row["table"] == name]
        columns = list(dict.fromkeys(column for row in ours for column in row["cells"]))
        if ours:
            lines = [["", *columns], ["---"] * (len(columns) + 1)]
            lines += [[row["case"], *(row["cells"].get(column, "") for column in columns)] for row in ours]
            parts.append("\n".join([f"{title}:", "", *(f"| {' | '.join(line)} |" for line in lines)]))
    return "\n\n".join(parts)


def faults(rows: list[dict]) -> list[str]:
    return [f"{row['table']}, {row['case']}: {fault}" for row in rows for fault in row["faults"]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--only", nargs="*", choices=[machine.checks for machine in MACHINES])
    parser.add_argument("--accelerator", choices=("kvm", "tcg"), help="without it KVM where it works")
    arguments = parser.parse_args(argv)
    # Whoever stops this stops the machine with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    accelerator = arguments.accelerator or best_accelerator(arguments.images)
    how = "KVM" if accelerator == "kvm" else "an emulated processor"
    started, rows = time.monotonic(), []
    for machine in MACHINES:
        if not arguments.only or machine.checks in arguments.only:
            print(f"{machine.checks}: {machine.memory_mb} MB, {PROCESSORS} cores, {how}", file=sys.stderr, flush=True)
            rows += checked(arguments.images, machine, accelerator)
    print(tables(rows))
    wrong = faults(rows)
    print(f"{len(rows)} cases in {time.monotonic() - started:.0f} s, {len(wrong)} faults", file=sys.stderr)
    for fault in wrong:
        print(f"FAULT {fault}", file=sys.stderr)
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
