#!/usr/bin/env python3
"""Lets llama-server draft tokens, by a model and by n-grams, and fails where answers are others than
without, or no draft is accepted.

    server_draft_test.py PROGRAMS MODEL CACHE

CACHE is f16 or squat:8, for example; the model is its own draft model, on a cache of the same kind.
Prints a line for each way to draft: tokens drafted and accepted.
"""
import sys

from server_checks import complete
from server_client import Failure, Server, parse_options

PROMPTS = ["The sea is wide. The sea is deep. The sea is",
           "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday,"]
WAYS = {  # with the least part of the drafts that must be accepted
    "model": (["--spec-type", "draft-simple", "--model-draft"], 0.8),
    "n-grams": (["--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "4",
                 "--spec-ngram-simple-size-m", "8"], 0.3)}


def answers(options, more):
    """The answers of a server with `more` options, and tokens drafted and accepted."""
    options.server_options = more
    with Server(options, options.cache) as server:
        found = [complete(server, prompt=prompt, n_predict=40, ignore_eos=True, id_slot=0)
                 for prompt in PROMPTS]
        server.stop()
    drafted, accepted = (sum(answer["timings"].get(name, 0) for answer in found)
                         for name in ("draft_n", "draft_n_accepted"))
    return [answer["content"] for answer in found], drafted, accepted


def main():
    options = parse_options(__doc__.splitlines()[0], lambda parser: parser.add_argument("cache"))
    wanted, *_ = answers(options, [])
    for way, (more, least) in WAYS.items():
        model = [options.model] if way == "model" else []
        found, drafted, accepted = answers(options, more + model)
        if found != wanted:
            raise Failure(f"with drafts by {way} the answers are {found}, and not {wanted}")
        if drafted == 0 or accepted < least * drafted:
            raise Failure(f"{accepted} of {drafted} tokens drafted by {way} were accepted")
        print(f"{way}: {drafted} tokens drafted, {accepted} accepted")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"server_draft_test: {failure}")
