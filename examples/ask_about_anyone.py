"""A model folder answers about histories it has never seen, and says what it did not know.

    python examples/ask_about_anyone.py FOLDER

FOLDER is a run of `learn_a_sequence.py` (or any run with a task `buy`); the tests run both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import perdure


def main(folder: Path) -> None:
    """Ask the model three questions."""
    model = perdure.load(folder / "pcl")
    for history in (["s0001", "s0013", "s0002"], ["s0001", "not-an-item"], []):
        answer = perdure.recommend(model, task="buy", history=history, k=3)
        print(history, "->", answer["items"], "by", answer["source"], "unknown:", answer["unknown"])
    kept = perdure.recommend(model, task="buy", history=["s0001"], k=3, deny=[answer["items"][0]])
    assert answer["items"][0] not in kept["items"]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/example"))
