"""What llama-server must do besides answering: refuse what is too long, survive a full context, keep
slots on disk, take parallel samples, move tokens. Expected is what it does with its own f16 cache."""
import os
import pathlib

from server_workload import GREEDY, Completion, lost, run_jobs, text_of


def expect(server, what, got, wanted):
    if got != wanted:
        raise server.failure(f"{what}: {got}, and not {wanted}")


def complete(server, **body):
    return server.ask("/completion", {**GREEDY, **body})


def check_overflow(server):
    """A prompt longer than the context is refused; an answer that reaches its end is cut."""
    context = server.slot_context()
    text = text_of(server, context + 400)  # less than a passage below that
    chat = {"messages": [{"role": "user", "content": text}]}
    for path, body in ("/completion", {"prompt": text}), ("/v1/chat/completions", chat):
        status, answer = server.post(path, {**body, **GREEDY})
        expect(server, f"{path}, prompt longer than the context",
               (status, answer.get("error", {}).get("type")), (400, "exceed_context_size_error"))

    prompt = text_of(server, context - 20)
    answer = complete(server, prompt=prompt, n_predict=context, ignore_eos=True)
    expect(server, "tokens in a full context",
           answer["tokens_evaluated"] + answer["tokens_predicted"], context)
    expect(server, "an answer that fills the context", (answer["stop_type"], answer["truncated"]),
           ("limit", True))


def check_crowd(server):
    """Prompts that fit alone but not together: each has its answer or llama-server's own error, and
    the server goes on."""
    share = min(server.options.context * 5 // 4 // server.options.slots, server.slot_context() - 40)
    jobs = [Completion(f"crowd {number}", text_of(server, share, first=number), 16)
            for number in range(server.options.slots)]
    answers = run_jobs(server, jobs, len(jobs))
    for answer in lost(answers):
        if "Context size has been exceeded." not in answer.problem:
            raise server.failure(f"request {answer.name}: {answer.problem}")
    complete(server, prompt="The sea", n_predict=8)


def check_slots(server):
    """An answer that goes on from a slot that was saved, erased and restored, into the same slot and
    into another, is the one that goes on from the slot as it was."""
    def act(action, slot):
        return server.ask(f"/slots/{slot}?action={action}", {"filename": "slot.bin"})

    # Alone in the memory and from its start: where llama.cpp's own cells lie changes its roundings.
    for slot in range(server.options.slots):
        act("erase", slot)
    question = f"{text_of(server, server.slot_context() // 4)}Which of these facts is the oddest?"
    prompt = server.prompt(question)
    begun = complete(server, prompt=prompt, n_predict=16, ignore_eos=True, id_slot=0)
    saved = act("save", 0)
    longer = f"{prompt}{begun['content']} In other words,"

    def go_on(slot):
        answer = complete(server, prompt=longer, n_predict=32, ignore_eos=True, id_slot=slot)
        # The tokens of the longer text may differ from the saved ones where the answer begins.
        least = begun["tokens_evaluated"] - 8
        if answer["timings"]["cache_n"] < least:
            raise server.failure(f"going on in slot {slot}: {answer['timings']['cache_n']} tokens "
                                 f"were there, and not {least} or more")
        act("erase", slot)
        return answer["content"]

    wanted = go_on(0)
    for slot in range(min(2, server.options.slots)):
        restored = act("restore", slot)
        expect(server, f"tokens restored to slot {slot}", restored["n_restored"], saved["n_saved"])
        expect(server, f"bytes restored to slot {slot}", restored["n_read"], saved["n_written"])
        expect(server, f"the answer from restored slot {slot}", go_on(slot), wanted)

    def check_broken():
        status, answer = server.post("/slots/0?action=restore", {"filename": "slot.bin"})
        expect(server, f"status of restoring a broken file, {answer}", status, 400)

    path = pathlib.Path(server.folder.name) / "slot.bin"
    if server.cache.startswith("squat:"):  # llama.cpp's own cache aborts at half a file
        os.truncate(path, saved["n_written"] // 2)
        check_broken()
    path.write_bytes(b"no slot" * 100)
    check_broken()
    complete(server, prompt="The sea", n_predict=8, id_slot=0)


def check_samples(server):
    """Several answers to one prompt: at temperature 0 the same ones."""
    count = min(3, server.options.slots)
    prompt = text_of(server, 300) + "In short,"
    samples = complete(server, prompt=prompt, n_predict=24, ignore_eos=True, n_cmpl=count)
    expect(server, "samples", len(samples), count)
    for sample in samples:
        expect(server, "tokens of a sample", sample["tokens_predicted"], 24)
        expect(server, "a sample at temperature 0", sample["content"], samples[0]["content"])

    chat = server.ask("/v1/chat/completions", {
        "messages": [{"role": "user", "content": "Name a bird."}], "n": count, "max_tokens": 12,
        "temperature": 1, "seed": 3})
    expect(server, "samples of a chat", len(chat["choices"]), count)


def check_shift(server):
    """With --context-shift an answer may be longer than the context. With --cache-reuse what follows a
    part that was left out of a prompt need not be computed again."""
    context = server.slot_context()
    prompt = text_of(server, context // 2)
    answer = complete(server, prompt=prompt, n_predict=2 * context, ignore_eos=True)
    expect(server, "tokens beyond the context", (answer["tokens_predicted"], answer["truncated"]),
           (2 * context, True))

    parts = [text_of(server, context // 5, first=first) for first in (0, 7, 14)]
    complete(server, prompt="".join(parts), n_predict=1, id_slot=0)
    answer = complete(server, prompt=parts[0] + parts[2], n_predict=16, id_slot=0)
    tokens = server.tokens(parts[0] + parts[2])
    if answer["timings"]["cache_n"] < 0.8 * tokens:
        raise server.failure(f"{answer['timings']['cache_n']} of {tokens} tokens were used again")


CHECKS = {"overflow": check_overflow, "crowd": check_crowd, "slots": check_slots,
          "samples": check_samples}
# What needs options of the server.
MORE_CHECKS = {"shift": check_shift}
