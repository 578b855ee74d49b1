from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from training.world import FABRIC

from perdure.errors import DataError, MachineError, NonFiniteError, PromiseBroken, SettingsError
from perdure.events.batch import Batch
from perdure.train_settings import TrainSettings
from perdure.training.loop import Keeper, fit, freeze, make_fabric, set_modes
from perdure.training.optimizers import gradient_norm, make_optimizers, scale_gradients, share_of_rate


class Rule(nn.Module):
    """A method made of functions."""

    def __init__(self, trains, loss=None, shut=None) -> None:
        super().__init__()
        self._trains, self._loss, self._shut = trains, loss, shut or (lambda model: {})

    def trains(self, model, task, stage):
        return self._trains(model)

    def shut(self, model, task, stage):
        return self._shut(model)

    def loss(self, model, task, batch, rng, progress):
        return self._loss(model, batch) if self._loss else model(batch).square().mean()


class Toy(nn.Module):
    """A table, a frozen-able layer with dropout, a head."""

    def __init__(self, method: nn.Module, sparse: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Embedding(20, 4, sparse=sparse)
        with torch.no_grad():
            self.table.weight.normal_(generator=generator)
        self.table.weight.sparse = sparse
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 1)
        self.drop = nn.Dropout(0.5)
        self.method = method

    def forward(self, batch):
        return self.head(self.body(self.table(batch.items).mean(1)))

    def terms(self, batch, task):
        return len(batch)


class Tape:
    """`n` batches of four users an epoch, in order."""

    def __init__(self, n: int = 3) -> None:
        self.n, self.at = n, 0

    def __len__(self) -> int:
        return self.n

    def __iter__(self):
        while self.at < self.n:
            self.at += 1
            items = torch.arange(4 * self.at, 4 * self.at + 8).view(4, 2) % 20
            yield Batch(items, torch.full((4,), 2))
        self.at = 0

    def state(self) -> dict:
        return {"at": self.at}

    def restore(self, state: dict) -> None:
        self.at = state["at"]


class Spy(Keeper):
    def __init__(self, do=None) -> None:
        self.lines, self.ticks, self.do = [], 0, do

    def log(self, **line) -> None:
        self.lines.append(line)

    def tick(self, **line) -> None:
        self.ticks += 1
        if self.do:
            self.do(self.ticks)


def everything(model):
    return [p for n, p in model.named_parameters()]


def run(model, keeper=None, validate=None, n: int = 3, **settings):
    chosen = TrainSettings(**{"epochs": 2, "learning_rate": 0.1, **settings})
    rng = torch.Generator().manual_seed(0)
    return fit(model, "t", "train", chosen, loader=Tape(n), rng=rng, fabric=FABRIC, keeper=keeper, validate=validate)


def test_only_what_the_method_names_moves_and_only_there_dropout_works():
    seen = {}

    def loss(model, batch):
        seen["modes"] = [model.table.training, model.body.training, model.body[1].training, model.head.training]
        return model(batch).square().mean()

    model = Toy(Rule(lambda m: list(m.head.parameters()), loss))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    run(model, optimizer="adamw", weight_decay=0.5)
    assert seen["modes"] == [False, False, False, True]
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"head.weight", "head.bias"}
    assert not any(p.requires_grad for n, p in model.named_parameters() if not n.startswith("head"))
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


def test_modes_of_layers_without_parameters():
    model = Toy(Rule(everything))
    trained = set(freeze(model, "t", "train").values())
    set_modes(model, trained)
    assert all(m.training for m in model.modules())
    set_modes(model, {model.head.weight})
    training = {n for n, m in model.named_modules() if m.training}
    assert training == {"", "head", "drop", "method"}
    set_modes(model, set())
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_shut_holds_on_the_step_whatever_momentum_and_decay_want(optimizer):
    share = torch.zeros(4, 4)
    share[0], share[1], share[2] = 1.0, 0.5, -0.0

    def after(shut) -> torch.Tensor:
        model = Toy(Rule(everything, shut=shut))
        model.body[1].p = 0.0
        run(model, optimizer=optimizer, weight_decay=0.3, epochs=1, n=1)
        return model.body[0].weight.detach()

    torch.manual_seed(0)
    start = Toy(Rule(everything)).body[0].weight.detach().clone()
    torch.manual_seed(0)
    free = after(lambda m: {})
    torch.manual_seed(0)
    held = after(lambda m: {m.body[0].weight: share})
    assert not torch.equal(free[0], start[0])
    assert torch.equal(held[0], start[0]), "share 1: bit for bit"
    assert torch.allclose(held[1], (free[1] + start[1]) / 2), "share 1/2: half the step"
    assert torch.equal(held[2:], free[2:]), "share 0: the whole step"


def test_a_share_may_be_a_column():
    model = Toy(Rule(everything, shut=lambda m: {m.body[0].weight: torch.tensor([[1.0], [0.0], [1.0], [0.0]])}))
    before = model.body[0].weight.detach().clone()
    run(model, weight_decay=0.3)
    same = (model.body[0].weight == before).all(1)
    assert same.tolist() == [True, False, True, False]


def test_sparse_tables_get_adam_by_rows_and_rows_nobody_met_stay():
    model = Toy(Rule(everything), sparse=True)
    kinds = [type(o).__name__ for o in make_optimizers(model.parameters(), TrainSettings())]
    assert kinds == ["Adam", "RowAdam"]
    before = model.table.weight.detach().clone()
    run(model, n=1, epochs=3, clip=0.01)
    met = torch.zeros(20, dtype=torch.bool)
    met[4:12] = True
    assert torch.equal(model.table.weight[~met], before[~met])
    assert not torch.equal(model.table.weight[met], before[met])


@pytest.mark.parametrize("sparse", [False, True])
def test_clipping(sparse):
    model = Toy(Rule(everything), sparse=sparse)
    batch = next(iter(Tape()))
    (model(batch).square().sum() * 100 + model(batch).sum()).backward()
    parameters = list(model.parameters())
    dense = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in parameters]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in dense))
    assert gradient_norm(parameters) == pytest.approx(norm, rel=1e-5)
    scale_gradients(parameters, 0.5 / norm)
    assert gradient_norm(parameters) == pytest.approx(0.5, rel=1e-5)
    assert parameters[0].grad.is_sparse is sparse


def test_rates():
    def rates(**more):
        settings = TrainSettings(learning_rate=1.0, **more)
        return [share_of_rate(step, 10, settings) for step in range(10)]

    assert rates() == [1.0] * 10
    assert rates(warmup_steps=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates(schedule="linear") == pytest.approx([1 - i / 10 for i in range(10)])
    cosine = rates(schedule="cosine", warmup_steps=2)
    assert cosine[:3] == [0.5, 1.0, 1.0] and cosine[6] == pytest.approx(0.5) and cosine[9] < 0.05


def test_warm_up_stable_annealing():
    """Ten steps: two to warm up, four at the full rate, four that fall; y = 0, 1/4, 1/2, 3/4."""

    def falling(**more):
        settings = TrainSettings(learning_rate=1.0, schedule="wsa", warmup_steps=2, stable_share=0.5, **more)
        rates = [share_of_rate(step, 10, settings) for step in range(10)]
        assert rates[:6] == [0.5, 1, 1, 1, 1, 1]
        assert share_of_rate(10, 10, settings) == pytest.approx(settings.floor), "where it ends"
        return rates[6:]

    assert falling(floor=0.2) == pytest.approx([1, 0.8, 0.6, 0.4])
    root = math.sqrt(0.5)
    assert falling(floor=0.2, annealing="cosine") == pytest.approx([1, 0.6 + 0.4 * root, 0.6, 0.6 - 0.4 * root])
    assert falling(floor=0.0625, annealing="exponential") == pytest.approx([1, 0.5, 0.25, 0.125])
    assert falling(floor=1.0) == [1, 1, 1, 1]


def test_the_best_state_is_restored_and_patience_ends_it():
    model = Toy(Rule(everything))
    states, values = [], iter([0.1, 0.3, 0.2, 0.2, 0.9])

    def validate() -> float:
        model.eval()
        states.append({n: t.clone() for n, t in model.state_dict().items()})
        return next(values)

    spy = Spy()
    at = run(model, spy, validate, epochs=20, patience=2)
    assert (at.epoch, at.best, at.best_epoch, at.waiting) == (4, 0.3, 2, 2)
    assert all(torch.equal(t, states[1][n]) for n, t in model.state_dict().items())
    assert [line["valid"] for line in spy.lines] == [0.1, 0.3, 0.2, 0.2]
    assert set(spy.lines[0]) >= {"task", "stage", "epoch", "loss", "valid", "seconds", "targets_per_second"}


def test_the_best_state_survives_a_resume():
    """Best in epoch 1, stopped after epoch 2: what is restored at the end was never seen by the second session."""

    class Stop(Spy):
        def save(self, snapshot) -> None:
            if len(self.lines) == 2:
                tensors, document = snapshot
                self.tensors = {f: {n: t.clone() for n, t in many.items()} for f, many in tensors.items()}
                self.document = json.loads(json.dumps(document))
                raise KeyboardInterrupt

    def session(model, keeper=None, resume=None, values=()):
        settings, rng = TrainSettings(epochs=3, learning_rate=0.1), torch.Generator()
        score = iter(values)
        validate = lambda: next(score)  # noqa: E731
        return fit(
            model,
            "t",
            "s",
            settings,
            loader=Tape(),
            rng=rng,
            fabric=FABRIC,
            validate=validate,
            keeper=keeper,
            resume=resume,
        )

    whole, first, second = (Toy(Rule(everything)) for _ in range(3))
    for drop in (whole, first, second):
        drop.body[1].p = 0.0
        drop.head.load_state_dict(whole.head.state_dict())
        drop.body.load_state_dict(whole.body.state_dict())
    session(whole, values=[0.9, 0.2, 0.1])
    stop = Stop()
    with pytest.raises(KeyboardInterrupt):
        session(first, stop, values=[0.9, 0.2])
    second.load_state_dict(first.state_dict())
    at = session(second, None, (stop.tensors, stop.document), values=[0.1])
    assert (at.best, at.best_epoch, at.epoch) == (0.9, 1, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_loss_learns_the_same():
    """Eager and compiled agree; the first call compiles (most of a minute on two cores)."""
    models = [Toy(Rule(everything)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, compiled in zip(models, (False, True), strict=True):
        model.body[1].p = 0.0
        rng = torch.Generator()
        fit(model, "t", "s", TrainSettings(epochs=2), loader=Tape(), rng=rng, fabric=FABRIC, compiled=compiled)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_evaluate_every_and_the_last_epoch():
    calls = []
    run(Toy(Rule(everything)), None, lambda: calls.append(1) or 0.0, epochs=5, evaluate_every=2, patience=0)
    assert len(calls) == 3


def test_max_steps():
    spy = Spy()
    at = run(Toy(Rule(everything)), spy, epochs=100, max_steps=7)
    assert (at.step, spy.ticks, at.epoch) == (7, 7, 3)


def test_validation_leaves_the_global_generator_alone():
    def weights(validate):
        torch.manual_seed(3)
        model = Toy(Rule(everything))
        run(model, None, validate, epochs=3, patience=0)
        return [p.detach().clone() for p in model.parameters()]

    rising = iter(range(100))
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            weights(lambda: next(rising)), weights(lambda: float(torch.rand(1)) + next(rising)), strict=True
        )
    )


BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("value", [*BAD, 1e38])
@pytest.mark.parametrize("what", ["loss", "table.weight", "body.0.weight", "head.bias"])
@pytest.mark.parametrize("sparse", [False, True])
def test_not_finite_stops_before_the_update(value, what, sparse):
    """A bad loss, or a bad gradient behind a good loss, at step 5 of 6: epoch 2, and nothing has moved."""
    steps = 0
    kept = {}

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * value

    def loss(model, batch):
        nonlocal steps
        steps += 1
        out = model(batch).square().mean()
        if steps == 5:
            kept.update({n: t.clone() for n, t in model.state_dict().items()})
            if what == "loss":
                return out * value
            if what == "table.weight":
                return Poison.apply(model.table(batch.items)).sum()
            layer, _, kind = what.rpartition(".")
            return out + Poison.apply(getattr(model.get_submodule(layer), kind)).sum()
        return out

    model = Toy(Rule(everything, loss), sparse=sparse)
    with pytest.raises(NonFiniteError) as fault:
        run(model)
    assert steps == 5
    assert fault.value.exit_code == 7
    assert "task t, epoch 2, step 5" in str(fault.value)
    if not (what == "loss" and value == 1e38):
        assert what in str(fault.value)
    assert all(torch.equal(t, kept[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("value", BAD)
def test_a_bad_weight_is_named(value):
    def poison(step: int) -> None:
        if step == 2:
            with torch.no_grad():
                model.head.weight[0, 0] = value

    model = Toy(Rule(everything))
    with pytest.raises(NonFiniteError, match=r"weight head\.weight"):
        run(model, Spy(poison))


@pytest.mark.parametrize("value", BAD)
def test_a_bad_validation_value(value):
    with pytest.raises(NonFiniteError, match="validation"):
        run(Toy(Rule(everything)), None, lambda: value)


def test_nothing_to_train_on_and_nothing_to_train():
    with pytest.raises(DataError, match="no training examples"):
        run(Toy(Rule(everything)), n=0)
    at = run(Toy(Rule(lambda m: [])))
    assert at.done and at.step == 0


def test_a_parameter_from_elsewhere():
    with pytest.raises(PromiseBroken, match=r"1 parameters that are not part of the model(?s:.*)overlay"):
        run(Toy(Rule(lambda m: [nn.Parameter(torch.zeros(1))])))


def test_a_parameter_nobody_used_has_no_gradient():
    model = Toy(Rule(everything, lambda m, batch: m.head.weight.square().sum()))
    before = model.body[0].weight.detach().clone()
    run(model)
    assert torch.equal(model.body[0].weight, before)


@pytest.mark.parametrize(
    ("device", "error"), [("tpu", MachineError), ("cuda:99", MachineError), ("cpu:x", MachineError)]
)
def test_devices(device, error):
    with pytest.raises(error, match="no device"):
        make_fabric(device)


def test_precision():
    with pytest.raises(SettingsError, match="16-mixed"):
        make_fabric("cpu", "16-mixed")
    model = Toy(Rule(everything))
    rng = torch.Generator().manual_seed(0)
    settings = TrainSettings(epochs=2)
    at = fit(model, "t", "s", settings, loader=Tape(), rng=rng, fabric=make_fabric("cpu", "bf16-mixed"))
    assert at.step == 6
    assert all(p.dtype == torch.float32 for p in model.parameters())
