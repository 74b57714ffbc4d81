#!/usr/bin/env python3
"""Sends llama-server thousands of short requests, and fails where one is lost or where memory grows.

    server_stress.py PROGRAMS MODEL CACHE [--requests 10000] [--slots 8] [-- OPTION...]

The model is best a tiny one, of squat_write_tiny_model. Prints one line of JSON: requests and how many
of them were cancelled and lost, seconds for all, resident bytes after the first requests and at the end.
No test runs it: it takes minutes.
"""
import json
import random
import sys
import time

from server_client import Failure, Server, parse_options
from server_workload import Completion, lost, run_jobs

FIRST = 500  # requests after which all slots and llama-server's own caches are in use
GROWTH = 1.1  # of resident memory, for what the allocator scatters: it stops after some thousands
WORDS = "the sea rises and falls on most coasts because moon water tides range when at in of".split()
CACHED_PROMPTS = ["--cache-ram", "4"]  # MiB; the default of 8 GiB would not be full at the end


def make_jobs(count, seed):
    """Prompts of up to 60 words, some with a beginning in common; every tenth answer is cancelled."""
    chance = random.Random(seed)
    jobs = []
    for number in range(count):
        words = WORDS[:8] if number % 3 == 0 else []
        words = words + chance.choices(WORDS, k=chance.randint(1, 60))
        cancelled = number % 10 == 0
        jobs.append(Completion(f"{number}", " ".join(words), 40 if cancelled else chance.randint(1, 12),
                               stream=cancelled, cancel_after=2 if cancelled else None))
    return jobs


def send(server, count, seed):
    """The answers, and resident bytes once all slots are empty."""
    answers = run_jobs(server, make_jobs(count, seed), server.options.slots)
    server.check_alive()
    server.wait_until_idle(30)
    for slot in range(server.options.slots):
        server.ask(f"/slots/{slot}?action=erase", {})
    return answers, server.resident_bytes()


def main():
    options = parse_options(__doc__.splitlines()[0], lambda parser: parser.add_argument("cache"),
                            requests=10000, slots=8)
    if options.requests <= FIRST:
        sys.exit(f"--requests is {options.requests}; it must be more than {FIRST}")
    options.server_options = CACHED_PROMPTS + options.server_options
    with Server(options, options.cache) as server:
        start = time.monotonic()
        answers, early = send(server, FIRST, seed=1)
        rest, late = send(server, options.requests - FIRST, seed=2)
        answers += rest
        summary = {"cache": options.cache, "requests": len(answers),
                   "cancelled": sum(answer.cancelled for answer in answers),
                   "lost": len(lost(answers)), "seconds": round(time.monotonic() - start, 1),
                   "early_bytes": early, "late_bytes": late, **server.stop()}
        print(json.dumps(summary))
        if lost(answers):
            raise Failure(f"lost: {lost(answers)[0].name}, {lost(answers)[0].problem}")
        if late > GROWTH * early:
            raise Failure(f"{late} bytes are resident, {early} were after {FIRST} requests")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"server_stress: {failure}")
