#!/usr/bin/env python3
"""Sends the same requests to llama-server on several caches, in turn and several times over.

    compare_servers.py PROGRAMS MODEL [CACHE...] [--runs 3] [--requests 40] [-- OPTION...]

Prints a table in Markdown. Answers are compared word for word with those of f16, every run with every
run; f16 is compared with its own other runs, and that is the noise: which requests share a batch
changes the roundings. Cancelled requests are not compared. Memory is the peak of the server, and the
lost ones are those of all runs.
"""
import itertools
import statistics
import sys

from server_client import Failure, Server, parse_options
from server_workload import lost, run_requests

CACHES = ["f16", "q8_0", "q4_0", "squat:8", "squat:2.5"]


def add_options(parser):
    parser.add_argument("caches", nargs="*", metavar="CACHE",
                        help=f"f16 is always among them (default: {' '.join(CACHES)})")
    parser.add_argument("--runs", type=int, default=3, help="of each cache (default: 3)")


def run(options, cache):
    with Server(options, cache) as server:
        answers, seconds = run_requests(server)
        peak = server.peak_bytes()
        server.stop()
    for answer in lost(answers):
        print(f"{cache}, request {answer.name}: {answer.problem}", file=sys.stderr)
    return answers, seconds, peak


def same(left, right):
    """How many answers are the same, and how many could be."""
    pairs = [(a, b) for a, b in zip(left, right) if not a.cancelled]
    return sum(a.text == b.text and not a.problem and not b.problem for a, b in pairs), len(pairs)


def low_middle_high(numbers):
    return f"{min(numbers)}-{statistics.median_low(numbers)}-{max(numbers)}" if numbers else "-"


def main():
    options = parse_options(__doc__.splitlines()[0], add_options)
    caches = list(dict.fromkeys(["f16", *(options.caches or CACHES)]))
    runs = {cache: [] for cache in caches}
    for number in range(options.runs):
        for cache in caches:
            runs[cache].append(run(options, cache))
            print(f"run {number + 1}, {cache}: {runs[cache][-1][1]:.1f} seconds", file=sys.stderr)

    f16 = [answers for answers, _, _ in runs["f16"]]
    compared = same(f16[0], f16[0])[1]
    print(f"| cache | seconds (median) | answers as f16, of {compared} (lowest-median-highest) | lost "
          "| peak memory |\n|---|---|---|---|---|")
    failed = False
    for cache, results in runs.items():
        pairs = (itertools.combinations(f16, 2) if cache == "f16" else
                 itertools.product((answers for answers, _, _ in results), f16))
        missing = sum(len(lost(answers)) for answers, _, _ in results)
        failed |= missing > 0
        print(f"| {cache} | {statistics.median(seconds for _, seconds, _ in results):.1f} "
              f"| {low_middle_high([same(*pair)[0] for pair in pairs])} | {missing} "
              f"| {max(peak for _, _, peak in results) / 1e6:.0f} MB |")
    sys.exit(failed)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"compare_servers: {failure}")
