"""A chat of two turns by llama-cpp-python: it must reuse what the cache holds, go on from a saved
state as without, and at 8 bits begin as with llama.cpp's own f16 cache.

    LLAMA_CPP_LIB_PATH=... python python_chat_test.py MODEL

Each cache has a process of its own, since the library reads SQUAT_CACHE when it is loaded.
"""
import json
import os
import pathlib
import re
import subprocess
import sys

PASSAGES = (pathlib.Path(__file__).parent / "passages.txt").read_text(encoding="utf-8").split("\n\n")
QUESTIONS = "What did John Harrison build?", "Why was a pendulum of no use to him?"
SAME_WORDS = 4  # later, two words may be about as likely, and any rounding decides


def require(condition, what):
    if not condition:
        sys.exit(f"python_chat_test: {what}")


def chat(model):
    """Holds the chat, and returns its two answers."""
    from llama_cpp import Llama  # loads the library

    class CountingLlama(Llama):
        evaluated = 0

        def eval(self, tokens):
            self.evaluated += len(tokens)
            super().eval(tokens)

    def open_model():  # one thread: on a busy machine, two of ggml's wait for each other
        return CountingLlama(model, n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False)

    def answer(llama, messages):
        before = llama.evaluated
        result = llama.create_chat_completion(messages, temperature=0, max_tokens=32)
        require(result["choices"][0]["finish_reason"] in ("stop", "length"), f"no end: {result}")
        return result["choices"][0]["message"], result["usage"], llama.evaluated - before

    llama = open_model()
    messages = [{"role": "user", "content": "\n\n".join(PASSAGES[5:8]) + "\n" + QUESTIONS[0]}]
    first, first_usage, evaluated = answer(llama, messages)
    require(evaluated >= first_usage["prompt_tokens"], f"{evaluated} tokens for {first_usage}")
    state = llama.save_state()

    messages += [first, {"role": "user", "content": QUESTIONS[1]}]
    second, usage, evaluated = answer(llama, messages)
    new = usage["prompt_tokens"] - first_usage["prompt_tokens"] + usage["completion_tokens"]
    require(evaluated <= new, f"turn 2 evaluates {evaluated} tokens, of which {new} are new")

    # The state goes on in the context that it came from and in another one.
    for what, other in ("same", llama), ("another", open_model()):
        other.load_state(state)
        again, _, evaluated = answer(other, messages)
        require(evaluated <= new, f"after load_state in the {what} context: {evaluated} tokens "
                f"evaluated, of which {new} are new")
        require(again == second, f"after load_state in the {what} context: '{again['content']}', "
                f"and not '{second['content']}'")
        other.close()
    return [first["content"], second["content"]]


def chat_with(model, cache):
    """What chat() returns on a cache, None for llama.cpp's own f16."""
    environment = {**os.environ, "SQUAT_LOG": "1"}
    environment.pop("SQUAT_CACHE", None)
    if cache:
        environment["SQUAT_CACHE"] = cache
    child = subprocess.run([sys.executable, __file__, model, "--chat"], env=environment, text=True,
                           capture_output=True, check=False)
    name = f"SQUAT_CACHE={cache}" if cache else "f16"
    require(child.returncode == 0, f"{name}: ended with {child.returncode}:\n{child.stderr[-3000:]}")
    used = re.search(r"squat: \d+ tokens, \d+ bytes in total", child.stderr)
    require(bool(used) == bool(cache), f"{name}: a squat cache was {'' if used else 'not '}used:\n"
            f"{child.stderr[-3000:]}")
    answers = json.loads(child.stdout)
    for turn, answer in enumerate(answers, 1):
        print(f"{name}, turn {turn}: {answer}")
    return answers


def main():
    if sys.argv[2:] == ["--chat"]:
        print(json.dumps(chat(sys.argv[1])))
        return
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    model = sys.argv[1]
    wanted = chat_with(model, None)
    answers = chat_with(model, "8")
    # What follows the second question is nearly a tie, which processors decide in different ways.
    require(answers[0].split()[:SAME_WORDS] == wanted[0].split()[:SAME_WORDS],
            f"turn 1: the first {SAME_WORDS} words at 8 bits and in f16 differ")
    chat_with(model, "2.5")


if __name__ == "__main__":
    main()
