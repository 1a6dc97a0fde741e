#!/usr/bin/env python3
"""
Draws what `make soak` measured, and prints it as the tables of docs/memory.md.

    plot_soak.py [JSON] [--png docs/soak.png]

Drawing needs scripts/requirements-report.txt; the tables alone, with --markdown, need nothing.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

from plot_load import ROOT, machine, table

FIGURES = {
    "proportional_mb": "resident",
    "anonymous_mb": "anonymous",
    "usage_mb": "of the container's limit, page cache included",
}
COLOURS = {"proportional_mb": "#1f5f8b", "anonymous_mb": "#d1663c", "usage_mb": "#9a9a9a"}


def measured(report: dict) -> str:
    """What was asked, of what, and what came of it."""
    return (
        f"emotion-server {report['server_version']} on {machine(report)}, Linux {report['machine']['kernel']}, in "
        f"{report['limit_mb']} MB: {report['requests']:,} requests from {report['clients']} clients with "
        f"{report['texts']:,} texts, {report['unknown_texts']:,} of them never asked for before, "
        f"{report['requests'] / report['busy_seconds']:.0f} requests a second. "
        f"{report['failures']} requests did not end as they were meant to; the kernel killed {report['kills']} times."
    )


def floors(report: dict) -> list[list[str]]:
    """Each figure at rest after the first requests and after all, and the most that it ever was."""
    first, last = report["first_floor"], report["last_floor"]
    return [
        [name, *(f"{value:.0f}" for value in (first[figure], last[figure])), f"{last[figure] - first[figure]:+.1f}",
         f"{max(sample[figure] for sample in report['samples']):.0f}"]
        for figure, name in FIGURES.items()
    ]  # fmt: skip


def ends(report: dict) -> list[list[str]]:
    """How often each kind of request ended in which way."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for count in report["counts"]:
        by_kind[count["kind"]].append(f"{count['requests']:,} × {count['end']}")
    return [[kind, ", ".join(counts)] for kind, counts in by_kind.items()]


def markdown(report: dict) -> str:
    first, last = (f"{report[floor]['requests']:,}" for floor in ("first_floor", "last_floor"))
    heading = ("MB", f"at rest after {first} requests", f"after {last}", "grown", "most")
    return "\n".join(
        [measured(report), "", *table(heading, floors(report)), "", *table(("request", "ended"), ends(report))]
    )


def draw(path: Path, report: dict) -> None:
    """Memory over time, and the requests that were answered until then."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Twice the 900 pixels at which it is shown.
    figure, axes = pyplot.subplots(figsize=(9, 4.6), dpi=200)
    minutes = [sample["seconds"] / 60 for sample in report["samples"]]
    for name, label in FIGURES.items():
        values = [sample[name] for sample in report["samples"]]
        axes.plot(minutes, values, color=COLOURS[name], linewidth=1, label=label)
    for floor in (report["first_floor"], report["last_floor"]):
        for name in ("proportional_mb", "anonymous_mb"):
            axes.plot(floor["seconds"] / 60, floor[name], "o", color=COLOURS[name], markersize=5)
    axes.axhline(report["limit_mb"], color="black", linestyle="--", linewidth=1)
    axes.text(0, report["limit_mb"] + 6, f"limit of the container, {report['limit_mb']} MB", fontsize=9)
    axes.set(xlabel="minutes", ylabel="MB", ylim=(0, report["limit_mb"] * 1.15))
    requests = axes.twinx()
    requests.plot(minutes, [sample["requests"] / 1000 for sample in report["samples"]], color="#6a7f3a", linewidth=1,
                  linestyle=":", label="requests, right")  # fmt: skip
    requests.set(ylabel="thousand requests", ylim=(0, report["requests"] / 1000 * 1.15))
    for side in (axes, requests):
        side.spines["top"].set_visible(False)
        side.tick_params(labelsize=9)
    axes.set_title(f"{report['requests']:,} mixed requests; dots are the idle floors", fontsize=11)
    figure.legend(loc="lower center", ncols=4, frameon=False, fontsize=9)
    figure.subplots_adjust(left=0.07, right=0.92, top=0.93, bottom=0.18)
    figure.savefig(path)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", nargs="?", type=Path, default=ROOT / "target/tmp/soak.json", help="of make soak")
    parser.add_argument("--png", type=Path, default=ROOT / "docs/soak.png")
    parser.add_argument("--markdown", action="store_true", help="only print the tables")
    arguments = parser.parse_args(argv)
    try:
        report = json.loads(arguments.json.read_text())
    except OSError as error:
        sys.exit(f"{arguments.json}: {error}")
    print(markdown(report))
    if not arguments.markdown:
        draw(arguments.png, report)
        print(f"\ndrawn: {arguments.png}")


if __name__ == "__main__":
    main()
