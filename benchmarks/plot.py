#!/usr/bin/env python3
"""Draws the numbers of attention_report: plot.py REPORT.json PLOT.svg

One panel a table. A bar is the median time of a contestant, the line across it the quartiles; the dashed
line is what reading the cache from memory and nothing else would take."""

import argparse
import json

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {"squat": "#c8553d", "ggml": "#4a6fa5", "ik_llama": "#6b9a52"}
INK = "#333333"


def colour(name):
    return next(colour for peer, colour in COLOURS.items() if name.startswith(peer))


def draw(axes, table):
    rows = table["rows"]
    medians = [row["median"] for row in rows]
    below = [row["median"] - row["lower_quartile"] for row in rows]
    above = [row["upper_quartile"] - row["median"] for row in rows]
    places = range(len(rows))
    axes.barh(places, medians, xerr=[below, above], height=0.7,
              color=[colour(row["name"]) for row in rows], error_kw={"ecolor": INK, "lw": 1})
    for place, row in zip(places, rows):
        axes.annotate(f" {number(row['median'])}", (row["upper_quartile"], place), va="center", fontsize=8,
                      color=INK)
        if table["read_gigabytes_per_second"] > 0:
            bound = row["median"] * row["gigabytes_per_second"] / table["read_gigabytes_per_second"]
            axes.vlines(bound, place - 0.4, place + 0.4, colors=INK, linestyles="dashed", lw=1)
    axes.set_yticks(places, [label(row) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(row["upper_quartile"] for row in rows))
    axes.set_xlabel(table["unit"], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    plural = "" if table["threads"] == 1 else "s"
    axes.set_title(f"{table['title']}, {table['threads']} thread{plural}", fontsize=9, loc="left")


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def label(row):
    bits = row["bits_per_element"]
    return f"{row['name']} ({bits:.1f} bits)" if bits > 0 else row["name"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", help="what attention_report --json wrote")
    parser.add_argument("plot", help="SVG file to write")
    arguments = parser.parse_args()
    with open(arguments.report, encoding="utf-8") as file:
        report = json.load(file)

    tables = report["tables"]
    columns = min(2, len(tables))
    lines = -(-len(tables) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(6.5 * columns, 2.9 * lines),
                                  squeeze=False, layout="constrained")
    for axes, table in zip(panels.flat, tables):
        draw(axes, table)
    for axes in panels.flat[len(tables):]:
        axes.set_visible(False)
    figure.suptitle(f"{report['processor']}. Shorter is faster; dashed: the time to read the "
                    "cache from memory", fontsize=10, color=INK)
    figure.savefig(arguments.plot)


if __name__ == "__main__":
    main()
