"""Several tasks learned at once: what is mixed and how often, one row of R, honest costs, exact stop and resume."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from cli import small
from training import world
from training.test_resume import EVERY_STEP, FANCY, ask, explode
from training.world import At, Bomb, Score, outcome

from perdure import registry
from perdure.errors import DataError, Interrupted, UsageError
from perdure.events.loader import Loader
from perdure.model import store
from perdure.training.life import Life, geometric_mean
from perdure.training.mixture import Mixture
from perdure.tuning.joint import Joint


def evaluate(model, data, split) -> Score:
    """Geometric mean probability of the first answer: positive, as real measures are."""
    return Score(data.task.name, math.exp(world.evaluate(model, data, split).value))


def live(folder, start="scratch", **more):
    built = more.pop("model", None) or world.model("joint", start=start)
    return world.live(folder, "joint", model=built, evaluate=more.pop("evaluate", evaluate), **more)


# -- the mixture ---


def loaders(seed: int = 0) -> dict[str, Loader]:
    return {
        name: Loader(
            data.sequences, data.train, batch_size=16, max_length=11, generator=torch.Generator().manual_seed(seed + i)
        )
        for i, (name, data) in enumerate(world.datas().items())
    }


def mixture(shares=(1.0, 1.0, 1.0), seed: int = 0) -> Mixture:
    names = dict(zip(world.ORDER, shares, strict=True))
    return Mixture(loaders(seed), names, torch.Generator().manual_seed(seed))


def played(mixed: Mixture, epochs: int) -> list[tuple]:
    told = [(mixed.task, b.items, b.answers) for _ in range(epochs) for b in mixed]
    return [(task, items.tolist(), None if answers is None else answers.tolist()) for task, items, answers in told]


def test_every_task_plays_its_own_tape():
    """In a mixture as alone: the n-th batch of a task is the n-th its loader gives, epoch after epoch."""
    told = played(mixture(), 40)
    assert len(told) == 40 * 9
    for name, loader in loaders().items():
        mine = [one for one in told if one[0] == name]
        alone = [batch for _ in range(len(mine) // 3 + 1) for batch in loader]
        assert [one[1] for one in mine] == [batch.items.tolist() for batch in alone[: len(mine)]]
        assert (mine[0][2] is None) == (name == "next")


def test_tasks_are_drawn_by_their_shares():
    counts = Counter(task for task, *_ in played(mixture((1.0, 2.0, 5.0)), 200))
    for task, share in zip(world.ORDER, (1 / 8, 2 / 8, 5 / 8), strict=True):
        assert abs(counts[task] - 1800 * share) < 4 * math.sqrt(1800 * share * (1 - share))


def test_it_goes_on_exactly_from_anywhere():
    expected = played(mixture(), 4)
    for at in range(30):
        mixed, left = mixture(), at
        for _ in range(4):
            for _ in mixed:
                left -= 1
                if left < 0:
                    break
            if left < 0:
                break
        state = json.loads(json.dumps(mixed.state()))
        again = mixture(seed=77)
        again.restore(state)
        rest = 4 - (at + 1) // 9 if (at + 1) % 9 else 4 - (at + 1) // 9 + 1
        assert played(again, rest)[: len(expected) - at - 1] == expected[at + 1 :], at


def test_a_position_of_other_tasks_is_refused():
    state = mixture().state()
    del state["loaders"]["kind"]
    with pytest.raises(UsageError, match="next, later"):
        mixture().restore(state)


def test_a_task_without_examples_is_refused():
    data = world.datas()["later"]
    none = replace(data.train, **{k: getattr(data.train, k)[:0] for k in ("users", "begin", "end", "answers")})
    none = replace(none, answer_starts=np.zeros(1, np.int64))
    empty = Loader(data.sequences, none, batch_size=4, max_length=5, generator=torch.Generator())
    with pytest.raises(DataError, match="later has no training examples"):
        Mixture({"later": empty}, {"later": 1.0}, torch.Generator())
    with pytest.raises(UsageError, match="share 0"):
        Mixture({"next": loaders()["next"]}, {"next": 0.0}, torch.Generator())


# -- the method ---


def test_shares_and_order_by_hand():
    examples = {"a": 900, "b": 100, "c": 4}
    assert Joint().shares(examples) == {"a": 30.0, "b": 10.0, "c": 2.0}
    assert Joint(power=0.0).shares(examples) == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert Joint(power=1.0).shares(examples) == {"a": 900.0, "b": 100.0, "c": 4.0}
    assert Joint().order(["a", "b", "c"]) == [["a", "b", "c"]]
    assert Joint(start="first").order(["a", "b", "c"]) == [["a"], ["a", "b", "c"]]
    assert Joint(start="first").order(["a"]) == [["a"]]


def test_geometric_mean_by_hand():
    assert geometric_mean([0.2, 0.05]) == pytest.approx(0.1)
    assert geometric_mean([0.25, 0.0]) == pytest.approx(math.sqrt(0.25e-6))
    assert geometric_mean([-3.0]) == -3.0
    a, b = np.array([0.2, 0.9]), np.array([0.1, 1.5])
    for scale in (np.array([1.0, 1.0]), np.array([7.0, 0.01])):  # dividing each measure changes no comparison
        assert (geometric_mean(list(a / scale)) > geometric_mean(list(b / scale))) == (0.2 * 0.9 > 0.1 * 1.5)


def test_all_at_once(tmp_path):
    out, _ = live(tmp_path, epochs=3)
    assert [len(row) for row in out.matrix.rows] == [0, 0, 3]
    assert math.isnan(out.matrix.forgetting())
    matrix = json.loads((tmp_path / "matrix.json").read_text())
    assert matrix["tasks"] == world.ORDER and matrix["forgetting"] is None
    assert [s["after"] for s in out.scores] == ["kind"] * 3
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert [line["step"] for line in epochs] == [9, 18, 27]  # 48 users of each task, 16 a step
    assert {line["metric"] for line in epochs} == {"geometric mean of all tasks"}
    assert [line["event"] for line in lines].count("row") == 1
    again = store.load(tmp_path / "model", world.find)
    data = world.datas()
    assert [evaluate(again, data[name], "test").value for name in world.ORDER] == list(out.matrix.rows[-1])
    assert epochs[-1]["best"] == pytest.approx(
        geometric_mean([evaluate(again, data[name], "valid").value for name in world.ORDER])
    )
    assert all(card.settled for card in again.tasks.values())


def test_every_task_and_the_backbone_learn(tmp_path):
    """Against the model as it was drawn."""
    fresh = world.model("joint")
    out, _ = live(tmp_path, epochs=20, learning_rate=0.03, patience=0)
    for task, floor in (("later", 1 / 12), ("kind", 1 / 3)):
        assert dict(zip(world.ORDER, out.matrix.rows[-1], strict=True))[task] > 1.5 * floor
    _, built = live(tmp_path)
    moved = [
        not torch.equal(p, q) for p, q in zip(built.backbone.parameters(), fresh.backbone.parameters(), strict=True)
    ]
    assert all(moved)


def test_costs_are_not_divided(tmp_path):
    out, _ = live(tmp_path / "all")
    first, second, last = out.costs
    assert [c["task"] for c in out.costs] == world.ORDER
    for cost in (first, second):
        assert all(cost[key] is None for key in ("seconds", "epochs", "trainable", "peak_rss"))
    assert last["seconds"] > 0 and last["epochs"] == 2 and last["trainable"] > 0
    for cost in out.costs:
        assert cost["together"] == world.ORDER
        assert cost["bytes"] == (tmp_path / "all" / "model" / "tasks" / f"{cost['task']}.safetensors").stat().st_size
    out, _ = live(tmp_path / "first", start="first")
    first, second, last = out.costs
    assert first["seconds"] > 0 and "together" not in first
    assert second["seconds"] is None and last["together"] == world.ORDER


def test_what_is_spent_by_hand(tmp_path):
    life = Life(fits=[{"seconds": 2.0, "epoch": 3}, {"seconds": 1.5, "epoch": 1}], trainable=7, costs=[{"task": "a"}])
    (tmp_path / "tasks").mkdir()
    for task, size in (("a", 10), ("b", 20), ("c", 30)):
        (tmp_path / "tasks" / f"{task}.safetensors").write_bytes(bytes(size))
    told = life.spent(["a", "b", "c"], tmp_path)
    assert [(c["task"], c["seconds"], c["epochs"], c["bytes"]) for c in told] == [
        ("b", None, None, 20),
        ("c", 3.5, 4, 30),
    ]


def test_what_a_method_stores_is_counted_with_the_task_that_made_it_grow(tmp_path):
    """Its file has 100 bytes after the first task, 100 after the second, 150 after the third."""
    (tmp_path / "tasks").mkdir()
    life = Life()
    for task, size in (("a", 100), ("b", 100), ("c", 150)):
        (tmp_path / "tasks" / f"{task}.safetensors").write_bytes(bytes(7))
        (tmp_path / "method.safetensors").write_bytes(bytes(size))
        life.costs += life.spent([task], tmp_path)
    assert [cost["bytes"] for cost in life.costs] == [107, 7, 57]


def test_the_first_alone_and_then_all(tmp_path):
    out, _ = live(tmp_path / "whole", start="first")
    assert [len(row) for row in out.matrix.rows] == [1, 0, 3]
    alone, data = world.model("joint", start="first"), world.datas()
    with world.RunLog(tmp_path / "one", world.IDENTITY) as run:
        world.learn(alone, data, ["next"], world.settings(), run, evaluate=evaluate)
    assert evaluate(alone, data["next"], "test").value == out.matrix.rows[0][0]
    taken = store.load(tmp_path / "one" / "model", world.find)
    again, _ = live(tmp_path / "two", model=taken)
    assert again.matrix.rows == out.matrix.rows


def test_a_task_that_comes_later_is_refused(tmp_path):
    with world.RunLog(tmp_path / "two", world.IDENTITY) as run:
        world.learn(world.model("joint"), world.datas(), ["next", "later"], world.settings(), run, evaluate=evaluate)
    known = store.load(tmp_path / "two" / "model", world.find)
    with pytest.raises(UsageError, match="next, later, kind together, and this model has learned next, later") as told:
        live(tmp_path / "three", model=known)
    assert "train a new model" in str(told.value)
    for start, match in (("first", "learned next, later already"), ("scratch", "learned nothing")):
        other = world.model("joint", start=start)
        other.add(known.tasks["next"], torch.Generator())
        if start == "first":
            other.add(known.tasks["later"], torch.Generator())
        with pytest.raises(UsageError, match=match):
            live(tmp_path / start, model=other)


# -- stop and resume ---


@pytest.mark.parametrize(("start", "minutes"), [("scratch", EVERY_STEP), ("first", 5.0)])
def test_killed_at_every_step(tmp_path, start, minutes):
    count = At(at=-1)
    expected = outcome(tmp_path / "whole", *live(tmp_path / "whole", start, show=count))
    assert count.count == (18 if start == "scratch" else 6 + 18)
    for at in range(1, count.count + 1):
        folder = tmp_path / str(at)
        with pytest.raises(Bomb):
            live(folder, start, show=At(at=at, do=explode), checkpoint_minutes=minutes)
        assert outcome(folder, *live(folder, start, checkpoint_minutes=minutes)) == expected, at


def test_asked_to_stop_at_every_step_and_in_every_evaluation(tmp_path):
    count, calls = At(at=-1), 0

    def counting(*args):
        nonlocal calls
        calls += 1
        return evaluate(*args)

    expected = outcome(tmp_path / "whole", *live(tmp_path / "whole", show=count, evaluate=counting, **FANCY))
    total = calls
    for at in range(1, count.count + 1):
        folder, rest = tmp_path / str(at), At(at=-1)
        with pytest.raises(Interrupted):
            live(folder, show=At(at=at, do=ask), **FANCY)
        assert outcome(folder, *live(folder, show=rest, **FANCY)) == expected, at
        assert rest.count == count.count - at, "no step was done twice"
    for at in range(1, total + 1):
        calls = 0

        def stopping(*args, at=at):
            nonlocal calls
            calls += 1
            if calls == at:
                ask()
            return evaluate(*args)

        folder = tmp_path / f"evaluation{at}"
        with pytest.raises(Interrupted):
            live(folder, evaluate=stopping, **FANCY)
        assert outcome(folder, *live(folder, **FANCY)) == expected, at


# -- the whole way ---


def recipe_of(folder, method):
    """The small world's, with a method without options."""
    recipe = small.make(folder, tuning={"method": method})
    recipe.write_text(recipe.read_text().replace("\nlength = 3\n", "\n"))
    return recipe


def test_from_the_command_line(tmp_path, capsys):
    recipe = recipe_of(tmp_path, "joint")
    assert small.call("learn", recipe, "--out", tmp_path / "run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["matrix"][:2] == [[], []] and len(told["matrix"][2]) == 3
    assert told["forgetting"] is None and told["backward_transfer"] is None
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert small.call("learn", recipe, "--out", tmp_path / "run", "--resume", "auto") == 0
    shown = capsys.readouterr().out
    assert "after gender" in shown and "after watch" not in shown and "forgetting         -" in shown
    assert small.call("show", tmp_path / "run") == 0
    assert small.call("evaluate", tmp_path / "run" / "model", "--task", "buy") == 0


def test_a_backbone_learned_elsewhere(tmp_path, capsys):
    """Taken over by what learns the first task alone, refused by what does not; what is to be kept of it is kept."""
    recipe = recipe_of(tmp_path, "frozen")
    assert small.call("learn", recipe, "--out", tmp_path / "base") == 0
    base = f"pretrain.model={tmp_path / 'base' / 'model'}"
    capsys.readouterr()
    assert small.call("learn", recipe, "--out", tmp_path / "no", "-s", "tuning.method=joint", "-s", base) == 2
    assert "learned watch already" in capsys.readouterr().err
    for method, more in (("joint", ["-s", "tuning.start=first"]), ("replay", []), ("ewc", [])):
        out = tmp_path / method
        assert small.call("learn", recipe, "--out", out, "-s", f"tuning.method={method}", *more, "-s", base) == 0
        assert json.loads((out / "cost.json").read_text())[0]["seconds"] == 0
    model = store.load(tmp_path / "replay" / "model", registry.find)
    assert int(model.overlays["watch"].filled) == len(model.overlays["watch"].lengths.nonzero()) > 50
    model = store.load(tmp_path / "ewc" / "model", registry.find)
    assert int(model.method.counted) == 3
