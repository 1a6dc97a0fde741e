#!/usr/bin/env python3
"""
Draws what `make load` measured, or prints it as the tables of docs/benchmarks.md.

    plot_load.py [JSON] [--precision int4] [--png docs/load.png]
    plot_load.py [JSON] --markdown

Drawing needs scripts/requirements-report.txt; the tables need nothing.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {"heavy": "#1f5f8b", "light": "#d1663c"}
# Of what the server does between requests no bare session tells, so a cache has a table without a ceiling.
BESIDE_BARE = (
    "model", "load", "texts/s", "p50 ms", "p90 ms", "p99 ms", "errors", "texts a batch", "padding % (in attention)",
    "texts per CPU-s", "bare", "ratio", "bare texts/s", "most MB (anonymous)",
)  # fmt: skip
WITH_CACHE = (
    "model", "load", "texts/s", "p50 ms", "p90 ms", "p99 ms", "errors", "texts a batch", "padding % (in attention)",
    "texts per CPU-s", "from the cache %", "most MB (anonymous)",
)  # fmt: skip
LONE = ("model", "server p50 ms", "bare session and tokenizer p50 ms", "added p50 ms")


class NoFigures(Exception):
    """The file has nothing of what was asked for."""


def machine(report: dict) -> str:
    """The machine in a few words."""
    here = report["machine"]
    return f"{here['cores']} cores of {here['cpu']} ({' and '.join(here['vnni']) or 'no VNNI'})"


def measured(report: dict) -> str:
    """What was measured, on what, and how."""
    here = report["machine"]
    return (
        f"emotion-server {report['server_version']} on {machine(report)}, {here['memory_mb']} MB, "
        f"Linux {here['kernel']}, load average before it {here['load_average']:.1f}; "
        f"{report['inference_threads']} workers, `MAX_BATCH_TOKENS` {report['max_batch_tokens']}, "
        f"rounds {report['rounds']}, of {report['seconds']:g} s each."
    )


def number(value: float | None, digits: int = 1) -> str:
    """A figure with so many decimals; a dash where there is none, as for latencies when every request failed."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(share: float) -> str:
    return number(share * 100)


def load_name(row: dict) -> str:
    if row["load"] == "open":
        return f"{row['rate']:.0f} requests a second"
    return "1 client" if row["clients"] == 1 else f"{row['clients']} clients"


def table_row(row: dict) -> list[str]:
    """The cells of a row, by whether there was a cache."""
    padding = f"{percent(row['padding_share'])} ({percent(row['attention_padding_share'])})"
    memory = row["most_memory"]
    cells = [
        f"{row['role']} {row['precision']}", load_name(row), number(row["texts_per_second"]), number(row["p50_ms"]),
        number(row["p90_ms"]), number(row["p99_ms"]), str(row["errors"]), number(row["texts_per_batch"]), padding,
        number(row["texts_per_cpu_second"]),
    ]  # fmt: skip
    if row["cache_mb"]:
        cells.append(percent(row["cache_hit_share"]))
    else:
        bare = row["ceiling"] or {"texts_per_cpu_second": None, "ratio": None, "texts_per_second": None}
        cells += [number(bare["texts_per_cpu_second"]), number(bare["ratio"], 3), number(bare["texts_per_second"])]
    return [*cells, f"{memory['proportional_mb']:.0f} ({memory['anonymous_mb']:.0f})"]


def table(heading: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def markdown(report: dict) -> str:
    """All rows as the tables of docs/benchmarks.md."""
    lines = [measured(report)]
    without = [table_row(row) for row in report["rows"] if not row["cache_mb"]]
    if without:
        lines += ["", "Cache off:", "", *table(BESIDE_BARE, without)]
    for cache_mb in sorted({row["cache_mb"] for row in report["rows"] if row["cache_mb"]}):
        rows = [table_row(row) for row in report["rows"] if row["cache_mb"] == cache_mb]
        lines += ["", f"Cache of {cache_mb} MB:", "", *table(WITH_CACHE, rows)]
    lone = [
        [f"{row['role']} {row['precision']}"]
        + [number(row[figure], 2) for figure in ("server_p50_ms", "bare_p50_ms", "added_p50_ms")]
        for row in report["lone"]
    ]
    if lone:
        lines += ["", "One text after the other:", "", *table(LONE, lone)]
    return "\n".join(lines)


def closed_rows(report: dict, precision: str) -> dict[str, list[dict]]:
    """The rows that are drawn: closed loops without a cache, by role and number of clients."""
    found: dict[str, list[dict]] = {}
    for row in report["rows"]:
        if row["load"] == "closed" and row["precision"] == precision and not row["cache_mb"] and row["texts"]:
            found.setdefault(row["role"], []).append(row)
    if not found:
        raise NoFigures(f"there is no closed loop of {precision} without a cache; measure it with --caches 0")
    return {role: sorted(rows, key=lambda row: row["clients"]) for role, rows in found.items()}


def draw(path: Path, report: dict, precision: str) -> None:
    """Throughput over latency, and beside it how near the server comes to the bare session."""
    roles = closed_rows(report, precision)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    # Twice the 900 pixels at which it is shown.
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4.6), dpi=200, width_ratios=(1.7, 1))
    clients = sorted({row["clients"] for rows in roles.values() for row in rows})
    for role, rows in roles.items():
        colour = COLOURS[role]
        per_second = [row["texts_per_second"] for row in rows]
        for figure_name, style, marker in (("p50_ms", "-", "o"), ("p99_ms", "--", "s")):
            latencies = [row[figure_name] for row in rows]
            label = f"{role}, {figure_name.removesuffix('_ms')}"
            left.plot(latencies, per_second, style, marker=marker, markersize=4.5, color=colour, label=label)
        for row in rows:
            where = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "fontsize": 9, "color": colour}
            left.annotate(str(row["clients"]), (row["p50_ms"], row["texts_per_second"]), **where)
        beside = {row["clients"]: row["ceiling"]["ratio"] for row in rows if row["ceiling"]}
        for count, ratio in beside.items():
            # Away from the other role's figure, which may be close.
            is_lower = any(ratio < other["ceiling"]["ratio"] for others in roles.values() for other in others
                           if other["clients"] == count and other["ceiling"])  # fmt: skip
            where = {"xytext": (0, -15 if is_lower else 7), "textcoords": "offset points", "ha": "center"}
            right.annotate(f"{ratio:.2f}", (clients.index(count), ratio), fontsize=9, color=colour, **where)
        if beside:
            places = [clients.index(count) for count in beside]
            right.plot(places, beside.values(), "-o", markersize=4.5, color=colour, label=role)
    left.set(xscale="log", yscale="log", xlabel="latency, ms", ylabel="texts per second")
    left.set_title("Throughput over latency; numbers are clients", fontsize=10)
    left.margins(y=0.15)
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    right.axhline(1, color="black", linestyle=":", linewidth=1)
    right.set_title("Ceiling ratio (bare session = 1)", fontsize=10)
    right.set(xlabel="clients", ylabel="ratio of texts per CPU-second", ylim=(0, 1.15))
    right.set_xticks(range(len(clients)), [str(count) for count in clients])
    right.margins(x=0.15)
    for axes in (left, right):
        axes.grid(color="#e4e4e4", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
        axes.legend(fontsize=9, loc="best", framealpha=0.9, edgecolor="none")
    workers = f"{report['inference_threads']} workers"
    title = f"emotion-server {report['server_version']}, {precision}, {workers}, on {machine(report)}"
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", nargs="?", type=Path, default=ROOT / "target/tmp/load.json", help="of make load")
    parser.add_argument("--precision", default="int8", help="the precision that is drawn")
    parser.add_argument("--png", type=Path, default=ROOT / "docs/load.png")
    parser.add_argument("--markdown", action="store_true", help="print tables rather than draw")
    arguments = parser.parse_args(argv)
    try:
        report = json.loads(arguments.json.read_text())
        if arguments.markdown:
            print(markdown(report))
        else:
            draw(arguments.png, report, arguments.precision)
            print(f"drawn: {arguments.png}")
    except (OSError, NoFigures) as error:
        sys.exit(f"{arguments.json}: {error}")


if __name__ == "__main__":
    main()
