"""Runs programs of llama.cpp on a cache: one of llama.cpp's own types, or squat."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent
TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def install(programs):
    """The folder of llama.cpp's programs and libsquat_llama.so, once they are installed."""
    command = [EXAMPLES / "install_llama_cpp", "--programs", " ".join(programs)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return pathlib.Path(output.splitlines()[-1])


class Cache:
    """What a cache's name stands for: q8_0 or squat:2.5, for example."""

    def __init__(self, name):
        self.name = name
        self.is_squat = name.startswith("squat:")
        if not self.is_squat and name not in TYPES:
            sys.exit(f"cache '{name}': it must be {', '.join(TYPES)} or squat:VALUE, with a value of "
                     "SQUAT_CACHE: squat:2.5 or squat:published:2, for example")

    def arguments(self):
        """With flash attention for all: llama.cpp has none but that for its quantized types."""
        types = [] if self.is_squat else ["-ctk", self.name, "-ctv", self.name]
        return ["-fa", "on", *types]

    def environment(self, folder):
        environment = {key: value for key, value in os.environ.items()
                       if key not in ("SQUAT_CACHE", "SQUAT_LOG")}
        if self.is_squat:
            environment["SQUAT_CACHE"] = self.name.split(":", 1)[1]
            environment["SQUAT_LOG"] = "1"
            environment["LD_PRELOAD"] = str(folder / "libsquat_llama.so")
        return environment


class Run:
    """A program's output and its peak memory, once it has ended; exits with the output's end if the
    program fails."""

    def __init__(self, folder, program, arguments, cache):
        command = [str(folder / program), *map(str, arguments), *cache.arguments()]
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=subprocess.STDOUT, env=cache.environment(folder))
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            self.output = output.read().decode(errors="replace")
        self.what = f"{program} with the cache {cache.name}"
        self.peak_bytes = usage.ru_maxrss * 1024
        if process.returncode != 0:
            self.fail(f"ended with {process.returncode}")

    def fail(self, why):
        end = "\n".join(self.output.splitlines()[-15:])
        sys.exit(f"{end}\n{self.what}: {why}; above is the end of its output")

    def find_all(self, pattern):
        """All matches' groups; at least one is there."""
        found = re.findall(pattern, self.output, re.MULTILINE)
        if not found:
            self.fail(f"its output has no '{pattern}'")
        return found

    def find(self, pattern):
        """The last match's groups as numbers."""
        found = self.find_all(pattern)[-1]
        return [float(text) for text in (found if isinstance(found, tuple) else (found,))]
