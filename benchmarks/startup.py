"""How long a person waits before anything happens: `import perdure`, `perdure --help`, `perdure --version`.

    python benchmarks/startup.py [--runs 10]

Each in a process of its own; the shortest of all runs counts, less what an empty Python takes is told beside it.
Promises: import under 0.5 s, --help under 0.7 s, neither with torch, polars or pydantic.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time

CASES = {
    "python": ["-c", "pass"],
    "import perdure": ["-c", "import perdure"],
    "perdure --help": ["-c", "import sys; from perdure.cli.main import main; sys.exit(main(['--help']))"],
    "perdure --version": ["-c", "import sys; from perdure.cli.main import main; sys.exit(main(['--version']))"],
    "perdure learn --help": [
        "-c",
        "import sys; from perdure.cli.main import main; sys.exit(main(['learn', '--help']))",
    ],
    "import torch": ["-c", "import torch"],
}
LIMITS = {"import perdure": 0.5, "perdure --help": 0.7}


def seconds(arguments: list[str]) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    best = {name: min(seconds(arguments) for _ in range(runs)) for name, arguments in CASES.items()}
    kept = all(best[name] < limit for name, limit in LIMITS.items())
    told = {"seconds": {name: round(value, 3) for name, value in best.items()}, "limits": LIMITS, "kept": kept}
    print(
        json.dumps({**told, "runs": runs, "python": platform.python_version(), "machine": platform.machine()}, indent=1)
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
