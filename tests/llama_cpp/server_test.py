#!/usr/bin/env python3
"""Sends llama-server, on a cache of choice, requests of many kinds, and fails where one is lost, where
the server answers otherwise than on its f16 cache, or where it ends by itself.

    server_test.py PROGRAMS MODEL CACHE [--requests 40] [--answers FILE] [-- OPTION...]

CACHE is f16, q8_0, q4_0 or another type of llama.cpp's, or squat:BITS. Prints one line of JSON:
requests and how many of them were cancelled and lost, seconds for all of them, the peak memory of
the server in bytes, and what a squat cache held at the end.
"""
import dataclasses
import json
import pathlib
import signal
import sys

from server_checks import CHECKS, MORE_CHECKS
from server_client import Failure, Server, parse_options
from server_workload import check_answers, lost, run_requests


def add_options(parser):
    parser.add_argument("cache", help="f16, q8_0, q4_0, squat:8, squat:2.5 ...")
    parser.add_argument("--answers", type=pathlib.Path, help="JSON file to write the answers to")
    parser.add_argument("--checks", nargs="*", choices=[*CHECKS, *MORE_CHECKS],
                        default=list(CHECKS), help="after the requests (default: all but shift, "
                        "which takes -- --context-shift --cache-reuse 16)")


def main():
    options = parse_options(__doc__.splitlines()[0], add_options)
    with Server(options, options.cache) as server:
        answers, seconds = run_requests(server)
        summary = {"cache": options.cache, "requests": len(answers),
                   "cancelled": sum(answer.cancelled for answer in answers),
                   "lost": len(lost(answers)), "seconds": round(seconds, 2),
                   "peak_bytes": server.peak_bytes()}
        if options.answers:
            options.answers.write_text(json.dumps(list(map(dataclasses.asdict, answers)), indent=1),
                                       encoding="utf-8")
        check_answers(server, answers)
        for name in options.checks:
            print(f"checking {name}", file=sys.stderr)
            {**CHECKS, **MORE_CHECKS}[name](server)
            server.check_alive()
        server.wait_until_healthy()
        summary.update(server.stop())
    with Server(options, options.cache) as server:  # the other way to end it, before any request
        server.stop(signal.SIGINT)
    print(json.dumps(summary))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"server_test: {failure}")
