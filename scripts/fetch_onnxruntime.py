#!/usr/bin/env python3
"""Puts the pinned ONNX Runtime library into lib/, where the server looks for it.

The library comes out of the wheel pinned by hash in requirements-runtime.txt. The wheel is only a
container here: it is fetched for a fixed Python version, so that the same file comes whatever Python
runs this script. Needs nothing but Python 3.10 with pip.
"""

import argparse
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SCRIPTS_DIR = Path(__file__).resolve().parent
REQUIREMENTS = SCRIPTS_DIR / "requirements-runtime.txt"
LINK_NAME = "libonnxruntime.so"
# What has to travel with the library wherever it is given away.
LICENCES = {"LICENSE": "onnxruntime-LICENSE.txt", "ThirdPartyNotices.txt": "onnxruntime-ThirdPartyNotices.txt"}
WHEEL_PYTHON = ("3.11", "cp311")
MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class FetchError(Exception):
    """The library cannot be had; the message says why and what would be right."""


def pinned_version() -> str:
    pin = re.search(r"^onnxruntime==([0-9.]+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    if pin is None:
        raise FetchError(f"{REQUIREMENTS} has no line 'onnxruntime==VERSION'")
    return pin.group(1)


def wheel_machine(system: str, machine: str) -> str:
    known = MACHINES.get(machine.lower())
    if system != "Linux" or known is None:
        raise FetchError(
            f"no ONNX Runtime library is pinned for {system} on {machine}, only for Linux on x86_64 and aarch64; "
            "install ONNX Runtime yourself and set ONNXRUNTIME_LIBRARY to its shared library"
        )
    return known


def download_wheel(machine: str, into: Path) -> Path:
    python_version, abi = WHEEL_PYTHON
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(into), "--requirement", str(REQUIREMENTS)]
    command += ["--python-version", python_version, "--implementation", "cp", "--abi", abi]
    for glibc in ("2_27", "2_28"):
        command += ["--platform", f"manylinux_{glibc}_{machine}"]
    if subprocess.run(command, check=False).returncode != 0:
        raise FetchError("pip did not get the wheel, see its message above; it needs a network and pip 20.3 or later")
    return next(into.glob("*.whl"))


def unpack(wheel: Path, version: str, into: Path) -> Path:
    library = f"{LINK_NAME}.{version}"
    members = {f"onnxruntime/{name}": target for name, target in LICENCES.items()}
    members[f"onnxruntime/capi/{library}"] = library
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as scratch, zipfile.ZipFile(wheel) as archive:
        for member, target in members.items():
            unpacked = Path(scratch) / target
            unpacked.write_bytes(archive.read(member))
            unpacked.chmod(0o644)
            # In one step: a server that starts meanwhile finds the old file or the new one, never half of it.
            unpacked.replace(into / target)
        link = Path(scratch) / LINK_NAME
        link.symlink_to(library)
        link.replace(into / LINK_NAME)
    return into / library


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=SCRIPTS_DIR.parent / "lib", help="folder to fill (%(default)s)")
    parser.add_argument(
        "--machine", default=platform.machine(), help="whose library to fetch: x86_64 or aarch64 (%(default)s)"
    )
    arguments = parser.parse_args()
    try:
        version = pinned_version()
        machine = wheel_machine(platform.system(), arguments.machine)
        with tempfile.TemporaryDirectory() as scratch:
            library = unpack(download_wheel(machine, Path(scratch)), version, arguments.into)
    except (FetchError, OSError, zipfile.BadZipFile, KeyError) as error:
        print(f"fetch_onnxruntime: {error}", file=sys.stderr)
        return 1
    print(f"ONNX Runtime {version} for {machine}: {library} ({library.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
