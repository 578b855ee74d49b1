"""`average`: the known answer, rows nobody met, what is shut, and that stopping anywhere changes no bit."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch
from torch import nn
from torch.nn import Parameter
from training.test_loop import Rule, Spy, Tape, Toy, everything, run
from training.test_resume import EVERY_STEP, ask, explode, uninterrupted
from training.world import FABRIC, At, Bomb, evaluate, live, outcome

from perdure.errors import Interrupted
from perdure.train_settings import TrainSettings
from perdure.training.averages import Averages, share
from perdure.training.loop import fit

AVERAGED = {"average": 0.9, "optimizer": "adamw", "clip": 0.5}


def moved(averages: Averages, parameter: Parameter, values: list[float]) -> list[float]:
    """The averages of a parameter of one number that takes these values, step by step."""
    found = []
    for step, value in enumerate(values, start=1):
        averages.before()
        with torch.no_grad():
            parameter.fill_(value)
        averages.after(step)
        found.append(float(averages.now()["w"]))
    return found


def test_worked_by_hand():
    """d = 1/10, 2/11, 3/12, then the decay: 0.1*0 + 0.9*1; 2/11*0.9 + 9/11*3; 1/4*a + 3/4*2; (a + 6) / 4 ..."""
    w = Parameter(torch.zeros(1))
    second = (2 * 0.9 + 9 * 3) / 11
    third = second / 4 + 3 * 2 / 4
    expected = [0.9, second, third, 0.25 * third + 0.75 * 6]
    assert moved(Averages({"w": w}, {}, 0.25), w, [1, 3, 2, 6]) == pytest.approx(expected, rel=1e-6)
    assert [share(step, 0.999) for step in (1, 2, 9)] == [0.1, 2 / 11, 0.5]
    assert share(100_000, 0.999) == 0.999


def test_what_the_start_weighs_after_ten_steps():
    w = Parameter(torch.ones(1))
    assert moved(Averages({"w": w}, {}, 0.999), w, [0.0] * 10)[-1] == pytest.approx(1 / 92378, rel=1e-5)  # 10! 9! / 19!


def test_rows_average_as_a_whole_table_would():
    """Rows that steps touch now and then against the plain formula over the whole table, asked in between."""
    generator = torch.Generator().manual_seed(0)
    table = Parameter(torch.randn(12, 3, generator=generator))
    table.sparse = True  # type: ignore[attr-defined]
    averages, slow = Averages({"w": table}, {}, 0.7), table.detach().double().clone()
    for step in range(1, 30):
        rows = torch.randperm(10, generator=generator)[:3]  # the last two rows are never met
        table.grad = torch.sparse_coo_tensor(rows[None], torch.ones(3, 3), (12, 3), check_invariants=True)
        averages.before()
        with torch.no_grad():
            table[rows] += torch.randn(3, 3, generator=generator)
        averages.after(step)
        slow = share(step, 0.7) * slow + (1 - share(step, 0.7)) * table.detach().double()
        if step % 7 == 0:
            assert torch.allclose(averages.now()["w"].double(), slow, atol=1e-6)
    assert torch.allclose(averages.now()["w"].double(), slow, atol=1e-6)
    assert torch.equal(averages.now()["w"][10:], table.detach()[10:])


@pytest.mark.parametrize("sparse", [False, True])
def test_validation_and_the_end_see_the_average_and_training_the_weights(sparse):
    """A slow copy follows the weights from outside; with and without averages the weights walk the same way."""

    def walk(average: float):
        torch.manual_seed(0)
        model = Toy(Rule(everything), sparse=sparse)
        weights, judged = [[p.detach().clone() for p in model.parameters()]], []
        spy = Spy(lambda step: weights.append([p.detach().clone() for p in model.parameters()]))

        def validate() -> float:
            model.eval()
            judged.append([p.detach().clone() for p in model.parameters()])
            return [0.1, 0.3, 0.2][len(judged) - 1]

        run(model, spy, validate, epochs=3, average=average)
        return weights, judged, [p.detach() for p in model.parameters()]

    weights, judged, end = walk(0.5)
    plain, plain_judged, _ = walk(0.0)
    for one, other in zip(weights, plain, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), "training goes on from the weights"
    slow = [w.double() for w in weights[0]]
    for step, now in enumerate(weights[1:], start=1):
        kept = share(step, 0.5)
        slow = [kept * a + (1 - kept) * w.double() for a, w in zip(slow, now, strict=True)]
        if step % 3 == 0:
            for a, b in zip(slow, judged[step // 3 - 1], strict=True):
                assert torch.allclose(a, b.double(), atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(end, judged[1], strict=True)), "the best state is an average"
    assert not all(torch.equal(a, b) for a, b in zip(end, plain_judged[1], strict=True))


def test_without_validation_the_last_average_is_kept():
    torch.manual_seed(0)
    model = Toy(Rule(everything))
    weights = [model.head.weight.detach().clone()]
    run(model, Spy(lambda step: weights.append(model.head.weight.detach().clone())), n=2, epochs=1, average=0.9)
    expected = 2 / 11 * (0.1 * weights[0] + 0.9 * weights[1]) + 9 / 11 * weights[2]
    assert torch.allclose(model.head.weight, expected, atol=1e-6)


def test_what_is_shut_and_what_is_frozen_stay_bit_for_bit():
    """Zeros with a sign too: an average computed of equal numbers could lose it."""
    share_shut = torch.zeros(4, 4)
    share_shut[0] = 1.0
    rule = Rule(lambda m: list(m.body.parameters()), shut=lambda m: {m.body[0].weight: share_shut})
    model = Toy(rule)
    with torch.no_grad():
        model.body[0].weight[0] = torch.tensor([-0.0, 0.0, 1e-30, 0.1])
        model.head.weight[0, 0] = -0.0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(model, optimizer="adamw", weight_decay=0.5, average=0.9, epochs=4, validate=iter([0.1, 0.2, 0.3, 0.1]).__next__)

    def bits(tensor):
        return tensor.contiguous().view(torch.int32)

    for name, tensor in model.state_dict().items():
        if name == "body.0.weight":
            assert torch.equal(bits(tensor[0]), bits(before[name][0]))
            assert not torch.equal(tensor[1:], before[name][1:])
        elif not name.startswith("body"):
            assert torch.equal(bits(tensor), bits(before[name])), name


def test_buffers_are_those_of_the_best_step():
    class Counting(Rule):
        def __init__(self) -> None:
            super().__init__(everything, self.count)
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

        def count(self, model, batch):
            self.steps += 1
            return model(batch).square().mean()

    model = Toy(Counting())
    run(model, average=0.9, epochs=3, validate=iter([0.1, 0.3, 0.2]).__next__)
    assert int(model.method.steps) == 6


def test_after_a_bad_validation_the_weights_are_back():
    model, seen = Toy(Rule(everything)), []
    spy = Spy(lambda step: seen.append([p.detach().clone() for p in model.parameters()]))

    def validate() -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, spy, validate, average=0.9)
    assert all(torch.equal(a, b) for a, b in zip(seen[-1], model.parameters(), strict=True))


def test_a_table_of_zeros_beside_a_layer_that_gets_no_gradient():
    model = nn.Module()
    model.table, model.method = nn.Embedding(4, 2), Rule(everything, lambda m, b: m.table.weight.square().mean())
    model.terms = lambda batch, task: len(batch)  # type: ignore[assignment]
    run(model, average=0.5)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("sparse", [False, True])
def test_a_fit_goes_on_from_every_snapshot(sparse):
    """In the middle of an epoch and at its end, through JSON; the table by rows too."""

    class Stop(Spy):
        saves, at = 0, 0

        def due(self) -> bool:
            return True

        def save(self, snapshot) -> None:
            self.saves += 1
            if self.saves == self.at:
                tensors, document = snapshot
                self.kept = {f: {n: t.clone() for n, t in many.items()} for f, many in tensors.items()}
                self.document = json.loads(json.dumps(document))
                raise KeyboardInterrupt

    def session(keeper, resume=None, weights=None):
        torch.manual_seed(0)
        model = Toy(Rule(everything), sparse=sparse)
        model.body[1].p = 0.0
        model.load_state_dict(weights or model.state_dict())
        settings, rng = TrainSettings(epochs=2, learning_rate=0.1, average=0.8), torch.Generator()
        with contextlib.suppress(KeyboardInterrupt):
            fit(model, "t", "s", settings, loader=Tape(4), rng=rng, fabric=FABRIC, keeper=keeper, resume=resume)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    count = Stop()
    whole = session(count)
    assert count.saves == 8
    for at in range(1, 9):
        stop = Stop()
        stop.at = at
        weights = session(stop)
        ended = session(Spy(), (stop.kept, stop.document), weights)
        assert all(torch.equal(whole[name], tensor) for name, tensor in ended.items()), at


@pytest.mark.parametrize("method", ["pcl", "hat"])
def test_killed_at_every_third_step(tmp_path, method):
    expected, steps = uninterrupted(method, **AVERAGED)
    assert expected != uninterrupted(method, **{**AVERAGED, "average": 0.0})[0], "averages are another result"
    for at in range(1, steps + 1, 3):
        folder = tmp_path / str(at)
        with pytest.raises(Bomb):
            live(folder, method, show=At(at=at, do=explode), checkpoint_minutes=EVERY_STEP, **AVERAGED)
        assert outcome(folder, *live(folder, method, checkpoint_minutes=EVERY_STEP, **AVERAGED)) == expected, at


def test_asked_to_stop_in_every_validation(tmp_path):
    """The checkpoint of a signal that comes while the averages are worn holds the weights."""
    expected, _ = uninterrupted("pcl", **AVERAGED)
    for at in range(1, 13):
        calls = 0

        def stopping(*args, at=at):
            nonlocal calls
            calls += 1
            if calls == at:
                ask()
            return evaluate(*args)

        folder = tmp_path / str(at)
        with pytest.raises(Interrupted):
            live(folder, evaluate=stopping, **AVERAGED)
        assert outcome(folder, *live(folder, **AVERAGED)) == expected, at
