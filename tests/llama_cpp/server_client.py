"""llama-server as a process, with a cache of choice, and its HTTP interface."""
import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time

HOST = "127.0.0.1"
START_SECONDS = 120
ANSWER_SECONDS = 900  # a busy machine is slow, a lost request is silent for longer
EXIT_SECONDS = 60


class Failure(Exception):
    """What a server did and should not have done."""


def parse_options(description, caches, **defaults):
    """The options that the scripts share; `caches` adds the script's own to the parser."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("programs", type=pathlib.Path,
                        help="folder with llama-server, and with libsquat_llama.so for squat caches")
    parser.add_argument("model", type=pathlib.Path, help="GGUF file of a model with a chat template")
    caches(parser)
    parser.add_argument("--requests", type=int, default=40, help="at least 1 (default: 40)")
    parser.add_argument("--slots", type=int, default=4,
                        help="requests at a time; 4 are llama-server's default (default: 4)")
    parser.add_argument("--threads", type=int, default=2, help="of llama-server (default: 2)")
    parser.add_argument("--context", type=int, default=8192, help="in tokens (default: 8192)")
    parser.add_argument("server_options", nargs="*", metavar="-- OPTION",
                        help="more options for llama-server, after --")
    parser.set_defaults(**defaults)
    options = parser.parse_intermixed_args()
    for name, least in ("requests", 1), ("slots", 1), ("threads", 1), ("context", 512):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least {least}")
    return options


def cache_settings(cache, programs):
    """The arguments and the environment that put llama-server on a cache."""
    if not cache.startswith("squat:"):
        return ["--cache-type-k", cache, "--cache-type-v", cache], {}
    library = programs.resolve() / "libsquat_llama.so"
    if not library.exists():  # the loader would only warn, and serve an f16 cache
        raise Failure(f"the cache is {cache}, but there is no {library}")
    return [], {"LD_PRELOAD": str(library), "SQUAT_CACHE": cache[len("squat:"):], "SQUAT_LOG": "1"}


class Server:
    """A llama-server that runs from `with` to its end, or to stop()."""

    def __init__(self, options, cache):
        self.options, self.cache = options, cache
        self.folder = tempfile.TemporaryDirectory(prefix="llama_server_")
        self.log_path = pathlib.Path(self.folder.name) / "log"
        self.process = None

    def __enter__(self):
        arguments, settings = cache_settings(self.cache, self.options.programs)
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port = free.getsockname()[1]
        command = [self.options.programs / "llama-server", "--model", self.options.model,
                   "--host", HOST, "--port", str(self.port), "--ctx-size", str(self.options.context),
                   "--threads", str(self.options.threads), "--slot-save-path", self.folder.name,
                   *arguments, *self.options.server_options]
        if self.options.slots != 4:
            command += ["--parallel", str(self.options.slots)]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, env={**os.environ, **settings})
        try:
            self.wait_until_healthy()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, _, error, __):
        try:
            if isinstance(error, (OSError, http.client.HTTPException)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(5)  # a server that aborts closes its connections first
                self.check_alive()
                raise self.failure(repr(error)) from error
        finally:
            self.end()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def wait_until_healthy(self):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            self.check_alive()
            with contextlib.suppress(OSError):
                if self.get("/health")[0] == 200:
                    return
            time.sleep(0.1)
        raise self.failure(f"not healthy after {START_SECONDS} seconds")

    def check_alive(self):
        code = self.process.poll()
        if code is not None:
            raise self.failure(f"ended with code {code}" if code >= 0 else
                               f"was killed by {signal.Signals(-code).name}")

    def failure(self, what):
        """A Failure that shows the end of the server's log."""
        lines = self.log().splitlines()[-30:]
        return Failure(f"llama-server with {self.cache}: {what}\nIts log ends with:\n"
                       + "\n".join(f"  | {line}" for line in lines))

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @contextlib.contextmanager
    def exchange(self, method, path, body=None):
        """Yields the response, and its socket; the connection is closed at the end."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=ANSWER_SECONDS)
        connection.connect()
        try:
            connection.request(method, path, None if body is None else json.dumps(body),
                               {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def request(self, method, path, body=None):
        with self.exchange(method, path, body) as response:
            return response.status, json.loads(response.read())

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body):
        return self.request("POST", path, body)

    def ask(self, path, body):
        """What a request answers that must succeed."""
        status, answer = self.post(path, body)
        if status != 200:
            raise self.failure(f"{path} answered {status}: {answer}")
        return answer

    def stream(self, path, body, cancel_after=None):
        """The events of a streamed answer, and whether it was cancelled: the connection is closed
        after `cancel_after` of them."""
        events = []
        with self.exchange("POST", path, {**body, "stream": True}) as response:
            if response.status != 200:
                return response.status, json.loads(response.read()), False
            for line in response:
                if not line.startswith(b"data: {"):
                    continue
                events.append(json.loads(line[len(b"data: "):]))
                if len(events) == cancel_after:
                    return response.status, events, True
        return response.status, events, False

    def tokens(self, text):
        return len(self.ask("/tokenize", {"content": text})["tokens"])

    def prompt(self, question):
        """A question as the model's chat template puts it."""
        message = {"role": "user", "content": question}
        return self.ask("/apply-template", {"messages": [message]})["prompt"]

    def slot_context(self):
        """Tokens that a slot can hold."""
        return self.get("/props")[1]["default_generation_settings"]["n_ctx"]

    def wait_until_idle(self, seconds):
        end = time.monotonic() + seconds
        while any(slot["is_processing"] for slot in self.get("/slots")[1]):
            if time.monotonic() > end:
                raise self.failure(f"a slot still works {seconds} seconds after the last answer")
            time.sleep(0.1)

    def peak_bytes(self):
        return self.memory("VmHWM")

    def resident_bytes(self):
        return self.memory("VmRSS")

    def memory(self, field):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", status)[1])

    def stop(self, signal_number=signal.SIGTERM):
        """Asks the server to end and checks that it does so properly. Returns what the cache said
        at its end: nothing unless it is a squat cache."""
        self.check_alive()
        self.process.send_signal(signal_number)
        try:
            code = self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise self.failure(f"still runs {EXIT_SECONDS} seconds after "
                               f"{signal.Signals(signal_number).name}") from None
        if code != 0:
            raise self.failure(f"ended with {code} on {signal.Signals(signal_number).name}")
        if not self.cache.startswith("squat:"):
            return {}
        said = re.findall(r"squat: (\d+) tokens, (\d+) bytes in total, (\d+) bytes in f16", self.log())
        if not said:
            raise self.failure("the log does not say that a squat cache was used")
        return dict(zip(("squat_tokens", "squat_bytes", "f16_bytes"), map(int, said[-1])))
