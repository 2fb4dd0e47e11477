"""CPU seconds of `simkit --help` and of `import simkit`: user + system time of the child process, best of N.

Run: python benchmarks/startup.py
"""

from __future__ import annotations

import resource
import subprocess
import sys

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import simkit": [sys.executable, "-c", "import simkit"],
    "simkit --help": [sys.executable, "-m", "simkit", "--help"],
    "simkit --version": [sys.executable, "-m", "simkit", "--version"],
    "simkit run --help": [sys.executable, "-m", "simkit", "run", "--help"],
    "simkit explain SK203": [sys.executable, "-m", "simkit", "explain", "SK203"],
    "simkit list": [sys.executable, "-m", "simkit", "list"],
}


def cpu_seconds(command: list[str]) -> float:
    """User + system seconds of one child."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int = 8) -> None:
    for name, command in COMMANDS.items():
        times = sorted(cpu_seconds(command) for _ in range(rounds))
        print(f"{name:<22} best {times[0] * 1000:6.0f} ms   median {times[rounds // 2] * 1000:6.0f} ms")


if __name__ == "__main__":
    main()
