"""What quantized matrix products need on this processor; the server decides alike."""

import platform
from pathlib import Path

VNNI = {"avx512_vnni", "avx_vnni"}


def use_exact_products(options):
    """Without VNNI, ONNX Runtime's fast product on x86 adds pairs in 16 bits, which can overflow: ask for the other."""
    if platform.machine() == "x86_64" and not has_vnni(Path("/proc/cpuinfo").read_text()):
        options.add_session_config_entry("session.x64quantprecision", "1")


def needs_company(session) -> bool:
    """Whether a text must not be alone in a run of this int4 graph.

    Without VNNI a 4-bit product of one row sums in another order than one of several, and the last layer reads one
    row a text.
    """
    is_int4 = session.get_modelmeta().graph_name.endswith("_int4")
    return is_int4 and not has_vnni(Path("/proc/cpuinfo").read_text())


def has_vnni(cpuinfo: str) -> bool:
    """Whether the processor in the text of /proc/cpuinfo has instructions for products of int8."""
    flags = next((line.split(":", 1)[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return not VNNI.isdisjoint(flags)
