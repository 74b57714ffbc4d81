"""The requests that the server tests send: of mixed length, some with prefixes in common, some that
go on from an earlier answer, some streamed, some cancelled."""
import dataclasses
import itertools
import pathlib
import queue
import random
import threading
import time
from typing import Optional

from server_client import Failure

PASSAGES = (pathlib.Path(__file__).parent / "passages.txt").read_text(encoding="utf-8").split("\n\n")
TOPICS = [passage.split(".")[0] for passage in PASSAGES]
GREEDY = {"temperature": 0}


@dataclasses.dataclass
class Answer:
    """What came back for one request. `problem` says why the request counts as lost."""
    name: str
    text: str = ""
    tokens: int = 0
    stop: str = ""
    cancelled: bool = False
    problem: Optional[str] = None


def complete(answer, wanted):
    """Checks that an answer has the tokens asked for or a reason to have stopped before."""
    if answer.stop not in ("eos", "word", "stop", "limit", "length"):
        answer.problem = f"no reason to stop: '{answer.stop}'"
    elif answer.stop in ("limit", "length") and answer.tokens != wanted:
        answer.problem = f"{answer.tokens} tokens, {wanted} asked for"
    return answer


@dataclasses.dataclass
class Completion:
    """A prompt that goes to /completion."""
    name: str
    prompt: str
    tokens: int
    stream: bool = False
    cancel_after: Optional[int] = None  # tokens, of a streamed answer

    def requests(self):
        return 1

    def run(self, server):
        answer = Answer(self.name)
        body = {**GREEDY, "prompt": self.prompt, "n_predict": self.tokens,
                "ignore_eos": self.cancel_after is not None}  # else it could end before that
        if self.stream:
            status, events, answer.cancelled = server.stream("/completion", body, self.cancel_after)
        else:
            status, last = server.post("/completion", body)
            events = [last]
        if status != 200:
            answer.problem = f"status {status}: {events}"
        elif not events:
            answer.problem = "an empty stream"
        else:
            answer.text = "".join(event["content"] for event in events)
            if not answer.cancelled:
                answer.stop = events[-1].get("stop_type", "")
                answer.tokens = events[-1].get("tokens_predicted", 0)
                complete(answer, self.tokens)
        return [answer]


@dataclasses.dataclass
class Conversation:
    """Questions in turn: each request holds the answers before it."""
    name: str
    system: str
    questions: list
    tokens: int

    def requests(self):
        return len(self.questions)

    def run(self, server):
        messages, answers = [{"role": "system", "content": self.system}], []
        for turn, question in enumerate(self.questions, 1):
            answers.append(Answer(f"{self.name}, turn {turn}"))
            messages.append({"role": "user", "content": question})
            status, body = server.post("/v1/chat/completions", {
                **GREEDY, "messages": messages, "max_tokens": self.tokens})
            if status != 200:
                answers[-1].problem = f"status {status}: {body}"
                continue
            choice = body["choices"][0]
            answers[-1].text = choice["message"]["content"]
            answers[-1].stop = choice["finish_reason"]
            answers[-1].tokens = body["usage"]["completion_tokens"]
            complete(answers[-1], self.tokens)
            messages.append(choice["message"])
        return answers


def text_of(server, tokens, first=0):
    """Passages, from number `first` on, of about and at most `tokens` tokens."""
    text = ""
    for number in itertools.count(first):
        longer = f"{text}{PASSAGES[number % len(PASSAGES)].strip()}\n\n"
        if server.tokens(longer) > tokens:
            return text
        text = longer


def make_jobs(server, count):
    """`count` requests. The longest prompts take three quarters of a slot's share of the context, so
    that all slots together stay below it."""
    longest = server.options.context * 3 // 4 // server.options.slots
    manual, essay = text_of(server, longest - 140), text_of(server, longest // 2, first=6)
    jobs = []

    def ask(prefix, kind, tokens, **details):
        topic = TOPICS[len(jobs) * 5 % len(TOPICS)]
        question = f"{prefix}What should one know about {topic.lower()}?"
        jobs.append(Completion(f"{len(jobs)}: {kind}", server.prompt(question), tokens, **details))

    while (sent := sum(job.requests() for job in jobs)) < count:
        topic = TOPICS[len(jobs) % len(TOPICS)].lower()
        questions = [f"What do you know about {topic}?", "Tell me more about that.",
                     f"Write one sentence about {topic} for a child."]
        jobs.append(Conversation(f"{len(jobs)}: conversation", essay, questions[:count - sent], 32))
        for kind, prefix, tokens, details in (
                ("short, streamed", "", 32, {"stream": True}),
                ("long prefix", manual, 24, {}),
                ("short", "", 48, {}),
                ("cancelled", essay, 200, {"stream": True, "cancel_after": 5}),
                ("long prefix", manual, 16, {}),
                ("medium", text_of(server, longest // 4, first=len(jobs)), 40, {}),
                ("medium prefix, streamed", essay, 32, {"stream": True})):
            if sum(job.requests() for job in jobs) < count:
                ask(prefix, kind, tokens, **details)
    random.Random(1).shuffle(jobs)
    return jobs


def run_jobs(server, jobs, workers):
    """Runs the jobs, `workers` at a time. Returns the answers, in the order of the jobs."""
    waiting = queue.SimpleQueue()
    answers = [None] * len(jobs)
    for number in range(len(jobs)):
        waiting.put(number)

    def work():
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            job = jobs[number]
            try:
                answers[number] = job.run(server)
            except Exception as error:  # whatever it is, these requests have no answer
                problem = f"{type(error).__name__}: {error}"
                answers[number] = [Answer(job.name, problem=problem)] * job.requests()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answer for of_job in answers for answer in of_job]


def run_requests(server):
    """Sends all requests. Returns the answers and the seconds that they took."""
    jobs = make_jobs(server, server.options.requests)
    start = time.monotonic()
    answers = run_jobs(server, jobs, server.options.slots)
    seconds = time.monotonic() - start
    server.check_alive()
    server.wait_until_idle(30)  # the cancelled ones, too, give their slots back
    return answers, seconds


def lost(answers):
    return [answer for answer in answers if answer.problem]


def check_answers(server, answers):
    if lost(answers):
        raise server.failure("\n".join(f"request {answer.name}: {answer.problem}"
                                       for answer in lost(answers)))
    cancelled = sum(answer.cancelled for answer in answers)
    if len(answers) >= 12 and cancelled == 0:
        raise Failure("no request was cancelled: all were answered before")
