"""Several processes train as one: the same weights, one writer, one end for all. CPUs and gloo; GPUs are not tried."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from cli.small import environment, make, start
from laws.house import PACKAGE, Module
from safetensors.torch import load_file

import perdure
from perdure.errors import MachineError, SettingsError
from perdure.events.batch import Batch
from perdure.model.files import sha256
from perdure.settings import load

TIMES = ("seconds", "targets_per_second", "seconds_per_step", "at", "peak_rss")
LONGER = {"train": {"epochs": 3, "checkpoint_minutes": 0.001}, "encoder": {"dropout": 0.2}}


def weights(run: Path) -> dict[str, torch.Tensor]:
    files = sorted((run / "model").rglob("*.safetensors"))
    return {f"{file.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def outcome(run: Path) -> dict:
    """All that must be equal, bit for bit, between two runs of as many processes."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {
        "weights": {p.name: sha256(p.read_bytes()) for p in sorted((run / "model").rglob("*.safetensors"))},
        "matrix": json.loads((run / "matrix.json").read_text()),
        "log": [{k: v for k, v in line.items() if k not in TIMES} for line in lines if line["event"] != "warning"],
    }


# -- the same as one process -------------------------------------------------------------------------------------------


def test_two_processes_learn_what_one_learns(tmp_path):
    """Dropout 0 and the full softmax: nothing is drawn, so only the rounding of sums may differ. 120 users in batches
    of 32 leave shares of unequal size, and histories of unequal length give them unequal weights."""
    recipe = make(tmp_path, ("watch", "buy"), objective={"loss": "softmax"}, encoder={"dropout": 0.0})
    runs = [perdure.learn(recipe, tmp_path / f"{n}", overrides=[f"run.processes={n}"]) for n in (1, 2)]
    torch.testing.assert_close(torch.tensor(runs[1].matrix[-1]), torch.tensor(runs[0].matrix[-1]))
    one, two = (weights(tmp_path / name) for name in ("1", "2"))
    for name, tensor in one.items():  # Adam turns the rounding of a gradient that is zero into steps
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=2e-5, msg=name)
    told = [json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[0])["loss"] for name in ("1", "2")]
    assert told[0] == pytest.approx(told[1], rel=1e-5)


def test_shares_together_are_the_batch():
    starts, lengths = torch.tensor([0, 2, 2, 3, 6, 7]), torch.tensor([3, 2, 1, 3, 2])
    told = {"users": torch.arange(5), "answers": torch.arange(7), "answer_starts": starts}
    whole = Batch(torch.arange(15).view(5, 3) + 2, lengths, **told)

    def held(share: Batch) -> list[list[int]]:
        return [getattr(share, name).tolist() for name in told]

    assert held(whole.share(0, 2)) == [[0, 2, 4], [0, 1, 2, 6], [0, 2, 3, 4]]
    assert held(whole.share(1, 2)) == [[1, 3], [3, 4, 5], [0, 0, 3]]
    assert held(whole.share(5, 6)) == [[], [], [0]]


PAIR = """
import sys
from pathlib import Path
import torch
from perdure.training.processes import joined
number, folder = int(sys.argv[1]), Path(sys.argv[2])
table, line, idle = (torch.nn.Parameter(torch.zeros(*shape)) for shape in ((6, 2), (3,), (2,)))
table.sparse = True
with joined(folder, number, 2) as processes:
    rows = torch.tensor([[1, 1, 4], [4]][number]) if number == 0 else torch.tensor([4])
    loss = torch.nn.functional.embedding(rows, table, sparse=True).sum() * (number + 1)
    if number == 0:
        loss = loss + line.sum()
    loss.backward()
    value = processes.sum(loss + number + 1, [table, line, idle])
    assert value == 3 and idle.grad is None and line.grad.tolist() == [1.0, 1.0, 1.0], (value, line.grad)
    grad = table.grad
    assert grad.is_coalesced() and grad.indices().tolist() == [[1, 4]] and grad.values()[:, 0].tolist() == [2.0, 3.0]
    states = processes.gathered({"loss": torch.tensor([number], dtype=torch.uint8)})
    assert {name: int(state) for name, state in states.items()} == {"loss": 0, "loss 1": 1}
    assert int(processes.own(states)["loss"]) == number
    assert processes.told(lambda: 0.1) == 0.1 and processes.any(number == 1) and not processes.any(False)
    held = {"a": torch.ones(2), "b": torch.tensor([True, bool(number)])}
    try:
        processes.hold(held, "here")
    except Exception as fault:
        assert "b" in str(fault)
    else:
        raise SystemExit("nobody noticed")
    processes.spread(held.values())
    processes.hold(held, "here")
"""


def test_what_processes_tell_each_other(tmp_path):
    """Gradients dense, sparse and missing; states, flags, and values that differ."""
    pair = [subprocess.Popen([sys.executable, "-c", PAIR, str(n), str(tmp_path)], env=environment()) for n in (0, 1)]
    assert [one.wait(120) for one in pair] == [0, 0]


SHARED = """
import sys
from pathlib import Path
import torch
from contracts import members
from perdure.training.processes import joined
number, folder, method, kind = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.rand = lambda *shape, **how: torch.full(shape, 0.5)  # histories are divided in the middle
model = members.new_model("sasrec", method, negatives=100)  # and all labels stand against the answers
members.learn(model, "watch", "next_item", steps=1)
model.add(members.card("buy", kind), torch.Generator().manual_seed(1))
model.requires_grad_()
weights = model.method.trains(model, "buy", "train")
def gradients(batch, weight, whole):
    rng = torch.Generator().manual_seed(2)
    for p in weights:
        p.grad = None
    (weight * model.method.loss(model, "buy", batch, rng, 0.0)).backward()
    if not whole:
        processes.sum(torch.zeros(()), weights)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in weights]
for size in (7, 1):  # of one user the second process has nothing
    batch = members.batch(5, size=size, answers=members.Y if kind != "next_item" else None)
    whole = gradients(batch, 1.0, True)
    with joined(folder / str(size), number, 2) as processes:
        share, weight = processes.share(batch, model, "buy")
        assert size == 1 or 0 < weight < 1 and weight != 0.5 and len(share) in (3, 4), weight
        found = gradients(share, weight, False)
    for one, other in zip(whole, found):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)
    assert max(float(one.abs().max()) for one in whole) > 1e-3
"""


@pytest.mark.parametrize("kind", ["item", "next_item"])
@pytest.mark.parametrize("method", ["melu", "minet"])
def test_gradients_of_shares_are_those_of_the_batch(tmp_path, method, kind):
    """Users have 1 to 3 answers: MeLU's loss is a mean over users; of MiNet's two means one is over source clicks."""
    for size in ("7", "1"):
        (tmp_path / size).mkdir()
    here = environment()
    here["PYTHONPATH"] = os.pathsep.join([here["PYTHONPATH"], str(Path(__file__).parents[1])])
    pair = [subprocess.Popen([sys.executable, "-c", SHARED, str(n), str(tmp_path), method, kind], env=here)
            for n in (0, 1)]  # fmt: skip
    assert [one.wait(120) for one in pair] == [0, 0]


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["objective.name=clue_seq"], "clue_seq compares the users of a batch"),
        (["objective.name=cl4srec"], "cl4srec compares the users of a batch"),
        (["tuning.method=ppr"], "ppr compares the users of a batch"),
        (["run.device=cuda:1"], "names one GPU for 2 processes"),
    ],
)
def test_refused(tmp_path, overrides, found):
    from perdure import registry

    recipe = make(tmp_path)
    with pytest.raises(SettingsError, match=found):
        load(recipe, ["run.processes=2", *overrides], parts=registry)
    load(recipe, ["run.processes=2", "objective.name=cl4srec", "objective.weight=0.0"], parts=registry)
    for fine in (["tuning.method=ppr", "tuning.contrast=none"], ["tuning.method=melu"], ["tuning.method=minet"]):
        load(recipe, ["run.processes=2", *fine], parts=registry)


def test_who_contrasts_users_says_so():
    """A loss over pairs of users either divides among processes (it gathers their rows) or says that it does not."""
    parts = [Module(path) for room in ("objectives", "tuning") for path in sorted((PACKAGE / room).glob("*.py"))]
    contrasts = [m for m in parts if "perdure.functional.contrastive" in m.imports]
    assert len(contrasts) >= 4
    for module in contrasts:
        names = {node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(module.tree) if isinstance(node, ast.Name)}
        assert "whole_batch" in names or "perdure.functional.gathering" in module.imports, module.place


def test_a_run_from_before_there_were_processes_goes_on(learned, tmp_path):
    recipe, run = learned
    shutil.copytree(run.folder, tmp_path / "run")
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    del told["settings"]["run"]["processes"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(told))
    with pytest.raises(SettingsError, match="processes"):
        perdure.learn(recipe, tmp_path / "run", overrides=["run.processes=2"], resume="must")
    assert perdure.learn(recipe, tmp_path / "run", resume="must").matrix == run.matrix


# -- stopped and gone on -----------------------------------------------------------------------------------------------


def followers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a process has started."""
    return [int(n) for n in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def gone(number: int) -> bool:
    """Within ten seconds; a zombie is gone."""
    stat, until = Path(f"/proc/{number}/stat"), time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if ") Z" in stat.read_text():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def begun(recipe: Path, run: Path, lines: int) -> tuple[subprocess.Popen[str], list[int]]:
    """A run of two processes that has written some lines of its log, and its others."""
    process = start("learn", recipe, "--out", run)
    log = run / "log.jsonl"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= lines):
        time.sleep(0.02)
    return process, followers(process)


@cache
def uninterrupted() -> tuple[Path, dict]:
    folder = Path(mkdtemp())
    recipe = make(folder, run={"processes": 2}, **LONGER)
    perdure.learn(recipe, folder / "whole")
    return recipe, outcome(folder / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 4, 6])
@pytest.mark.parametrize("how", ["KILL", "TERM", "follower TERM", "follower KILL"])
def test_stopped_and_resumed(tmp_path, how, lines):
    """Dropout, shuffling and sampled negatives are on; the others are gone with the first, and the first with them."""
    recipe, expected = uninterrupted()
    process, others = begun(recipe, tmp_path / "run", lines)
    assert len(others) == 1
    os.kill(others[0] if how.startswith("follower") else process.pid, getattr(signal, f"SIG{how.split()[-1]}"))
    told = process.communicate(timeout=60)[1]
    code = {"KILL": -9, "TERM": 6, "follower TERM": 6, "follower KILL": MachineError.exit_code}[how]
    assert process.returncode == code, told
    if how == "follower KILL":
        assert "process 2 of 2 was ended by signal 9" in told and len(told.split("process 2 of 2")) == 2
    assert gone(others[0]) and "Traceback" not in told
    with pytest.raises(SettingsError, match="processes: 2 -> 1"):
        perdure.learn(recipe, tmp_path / "run", overrides=["run.processes=1"], resume="must")
    perdure.learn(recipe, tmp_path / "run", resume="must")
    assert outcome(tmp_path / "run") == expected and not list((tmp_path / "run").glob(".processes-*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["encoder.sparse=true", "objective.loss=sampled", "objective.negatives=16"],
        ["objective.name=clue_service", 'input.events=["domain"]', "encoder.dropout=0.0"],
        ["tuning.method=hat"],
        ["tuning.method=teracon"],
        ["tuning.method=ewc", "train.average=0.9", "train.clip=0.5"],
        ["tuning.method=replay"],
        ["tuning.method=joint"],
    ],
    ids=["sparse", "clue_service", "hat", "teracon", "ewc", "replay", "joint"],
)
def test_weights_stay_the_same_everywhere(tmp_path, overrides):
    """The loop compares the processes before and after each fit: a run that ends was never apart."""
    recipe = make(tmp_path)
    run = perdure.learn(recipe, tmp_path / "run", overrides=["run.processes=3", *overrides])
    assert run.tasks == ["watch", "buy", "gender"]
