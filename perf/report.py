# SPDX-License-Identifier: Apache-2.0
"""One page of what `xfrmnic bench --json` found, with plots, beside the published figures.

    xfrmnic bench --json > bench.json
    python perf/report.py bench.json > report.html

Plots need matplotlib (the extra `report`); they stand in the page as SVG, and nothing is loaded
from elsewhere. A program that was not run is left out.
"""

import argparse
import html
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Results = dict[str, Any]
Lines = dict[str, list[tuple[float, dict[str, float]]]]  # by name: x, and a summary of y

REFERENCE = "ipsec-mb"
STYLE = "body{font:15px sans-serif;max-width:62em;margin:2em auto} td,th{padding:.2em .8em;\
text-align:right} td:first-child{text-align:left} pre{background:#eee;padding:1em}"


def svg(figure: Figure) -> str:
    """The figure as an element of a page, without the head of a file."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


def figure(plots: int) -> tuple[Figure, list[Axes]]:
    """Plots side by side."""
    drawn = Figure(figsize=(5.2 * plots, 3.6), layout="constrained")
    return drawn, list(drawn.subplots(1, plots, squeeze=False)[0])


def draw_lines(axes: Axes, lines: Lines, x: str, y: str) -> None:
    """Medians with their ranges, both axes logarithmic."""
    for name, points in lines.items():
        at, values = zip(*points, strict=True)
        median = [value["median"] for value in values]
        below = [value["median"] - value["low"] for value in values]
        above = [value["high"] - value["median"] for value in values]
        axes.errorbar(at, median, yerr=(below, above), label=name, marker="o", capsize=3)
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize="small")


def esp(found: Results) -> str:
    """Time of AES-GCM over packet size, and in proportion to libipsec-mb where that was there."""
    rows = [row for row in found["results"] if row["key_bits"] == 128]
    drawn, plots = figure(2)
    for axes, way in zip(plots, ("seal", "open"), strict=True):
        lines: Lines = {}
        for row in rows:
            if row["way"] == way:
                lines.setdefault(row["form"], []).append((row["bytes"], row["ns"]))
        draw_lines(axes, lines, "bytes", f"{way}: ns per packet")
    cells = [
        (f"{row['form']}, {row['way']}, {row['key_bits']} bit", row["bytes"], row["gbit_s"],
         spread(row["ratio"]))
        for row in found["results"] if "ratio" in row
    ]  # fmt: skip
    head = ("AES-GCM", "bytes", "Gbit/s", f"time / {REFERENCE}")
    return (
        svg(drawn) + f"<p>{REFERENCE}: {html.escape(found['reference'])}</p>" + table(head, cells)
    )


def pipeline(found: Results) -> str:
    """What a packet costs the card."""
    cells = [
        (name, spread(each), spread(each["ratio"]) if "ratio" in each else "")
        for name, each in found["results"].items()
    ]
    return table(("stage and bytes", found["unit"], f"time / {REFERENCE}'s cipher alone"), cells)


def ring(found: Results) -> str:
    """What the bus carries."""
    keys = ("burst", "messages_per_s", "packets_per_s")
    return table(keys, [tuple(row[key] for key in keys) for row in found["results"]])


def events(found: Results) -> str:
    """How long limits take from the card to the user."""
    times = ("median", "p90", "p99", "max")
    cells = [
        (f"{name}, {side}", *(case[side].get("ms", {}).get(time, "") for time in times),
         case[side]["events"], case[side]["lost"], spread(case["packets_per_s"]))
        for name, case in found["results"].items() for side in ("tx", "rx")
    ]  # fmt: skip
    return table((found["unit"], *times, "events", "lost", "packets per s"), cells)


def scale(found: Results) -> str:
    """What a packet costs the card as its tables grow."""
    drawn, (axes,) = figure(1)
    sizes = found["results"]
    lines = {
        way: [(float(size), row[way]["ns_per_packet"]) for size, row in sizes.items()]
        for way in ("tx", "rx")
    }
    draw_lines(axes, lines, "SAs and policies", "ns per packet")
    cells = [
        (size, row["bytes_per_sa"], row["installs_per_s"],
         *(spread(row[way]["growth"]) for way in lines))
        for size, row in sizes.items()
    ]  # fmt: skip
    head = ("SAs and policies", "bytes per SA", "installs per s", "tx growth", "rx growth")
    return svg(drawn) + table(head, cells)


def netlink(found: Results) -> str:
    """Requests over the size of the core's tables."""
    drawn, (axes,) = figure(1)
    requests = found["results"]["requests"]
    lines = {
        name: [(float(size), each) for size, each in request["microseconds"].items()]
        for name, request in requests.items()
    }
    draw_lines(axes, lines, "SAs and policies", "µs per request")
    cells = [(name, request["growth"]) for name, request in requests.items()]
    return svg(drawn) + table(("request", "growth from the smallest to the largest"), cells)


def seed_table(found: Results) -> str:
    """Ours and the published ones, by cores."""
    cores = found["cores"]
    ours = {
        name: list(row["computed"]["gbit_s"].values()) for name, row in found["results"].items()
    }
    tables = {
        "computed from measured cost per packet": ours,
        "published": found["published_gbit_s"],
    }
    drawn, plots = figure(2)
    parts = []
    for axes, (title, rows) in zip(plots, tables.items(), strict=True):
        exact = {
            name: [
                (float(n), dict.fromkeys(("median", "low", "high"), value))
                for n, value in zip(cores, values, strict=True)
            ]
            for name, values in rows.items()
        }
        draw_lines(axes, exact, "host cores", "Gbit/s")
        axes.set_title(title, fontsize="medium")
        cells = [(name, *values) for name, values in rows.items()]
        parts.append(f"<p>Gbit/s, {title}</p>" + table(("cores", *cores), cells))
    costs = [
        (f"{name}, {side}", spread(row["measured_ns_per_packet"][side]),
         spread(row["measured_ratio_to_baseline"][side]))
        for name, row in found["results"].items() for side in row["measured_ns_per_packet"]
    ]  # fmt: skip
    head = ("measured", found["unit"], "in proportion to the baseline")
    return svg(drawn) + "".join(parts) + table(head, costs)


SECTIONS: dict[str, Callable[[Results], str]] = {
    "seed_table": seed_table, "esp": esp, "pipeline": pipeline, "scale": scale,
    "netlink": netlink, "ring": ring, "events": events,
}  # fmt: skip


def spread(summary: dict[str, float]) -> str:
    """A median and its range."""
    return f"{summary['median']:g} ({summary['low']:g} .. {summary['high']:g})"


def table(head: tuple[Any, ...], rows: list[tuple[Any, ...]]) -> str:
    """An HTML table."""
    lines = ["".join(f"<th>{html.escape(str(cell))}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def page(found: dict[str, Results]) -> str:
    """The whole page; section by section with the machine that it was measured on."""
    mpl.rcParams["svg.hashsalt"] = "xfrmnic"  # the same page for the same figures
    parts = [f"<!doctype html><meta charset=utf-8><title>xfrmnic</title><style>{STYLE}</style>"]
    for name, draw in SECTIONS.items():
        if name in found:
            machine = html.escape(json.dumps(found[name]["machine"], indent=1))
            text = draw(found[name])
            parts.append(f"<h2>{name}</h2>{text}<details><pre>{machine}</pre></details>")
    return "\n".join(parts)


def main() -> None:
    """Read the JSON of `xfrmnic bench`, print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="what `xfrmnic bench --json` printed")
    print(page(json.loads(parser.parse_args().file.read_text())))


if __name__ == "__main__":
    main()
