"""The one training loop: every optimiser step of the library happens in `fit`.

    for every epoch:
        for every batch:     loss -> gradients -> all finite? -> clip -> step -> put back what the method shut
        validate on the task's own validation users; keep the best state; stop when it has not improved for long
    restore the best state

What may move is what `method.trains` names, nothing else: all other parameters are frozen and their modules run in
eval mode, so that no dropout works in a frozen part. What `method.shut` names is put back after the step, whatever
the optimiser's momentum or weight decay wanted. Where `average` is set, what is validated and kept is the average of
the weights along the way; training goes on from the weights themselves. Several processes sum their gradients and take
the same step: see processes.py.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from perdure.errors import DataError, MachineError, NonFiniteError, PromiseBroken, SettingsError
from perdure.events.batch import Batch
from perdure.model.user_model import UserModel
from perdure.train_settings import TrainSettings
from perdure.training.averages import Averages
from perdure.training.compiling import through_compiler
from perdure.training.optimizers import gradient_norm, make_optimizers, scale_gradients, share_of_rate, values_of
from perdure.training.processes import Processes
from perdure.training.rows import touched
from perdure.tuning.base import method_of

ALONE = Processes()
GENERATORS = "generator.safetensors"
Snapshot = tuple[dict[str, dict[str, Tensor]], dict[str, Any]]  # tensors by file and name; a JSON document


class Batches(Protocol):
    """What `fit` needs of a loader: `events.loader.Loader` is one. One of several tasks tells by `task` whose batch it
    gave last, as `mixture.Mixture` does."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...
    def state(self) -> dict: ...
    def restore(self, state: dict) -> None: ...


class Keeper:
    """Keeps nothing and never stops: what `fit` talks to between steps. `checkpoint.Saver` keeps and stops."""

    def due(self) -> bool:
        """True when a checkpoint should be written after this step: it is time, or somebody asked us to stop."""
        return False

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint. Raises Interrupted when somebody asked us to stop."""

    def work(self, work: Callable[[], float], snapshot: Callable[[], Snapshot]) -> float:
        """Do something long that changes nothing and may be cut short by a signal; its result, finite."""
        return work()

    def log(self, **line: Any) -> None:
        """One line of metrics."""

    def tick(self, **line: Any) -> None:
        """After every step: what a progress bar shows. Not kept."""


@dataclass
class Progress:
    """Where a fit stands. All of it is JSON; with the tensors of a snapshot it is enough to go on exactly."""

    phase: str = "train"  # or "validate": the epoch's steps are done, its validation is not
    epoch: int = 0  # epochs finished, validation included
    step: int = 0  # optimiser steps done
    in_epoch: int = 0  # of them in the running epoch
    loss: float = 0.0  # sum of the running epoch's losses
    targets: int = 0  # targets seen in the running epoch
    best: float | None = None  # best validation value
    best_epoch: int = 0
    waiting: int = 0  # evaluations since the best
    stepping: float = 0.0  # seconds spent in the running epoch's steps, all sessions together
    seconds: float = 0.0  # spent in all steps and validations
    done: bool = False
    curve: list[list[float | None]] = field(default_factory=list)  # per epoch: mean loss, validation value


def fit(
    model: UserModel,
    task: str,
    stage: str,
    settings: TrainSettings,
    *,
    loader: Batches,
    rng: torch.Generator,
    fabric: Any,
    validate: Callable[[], float] | None = None,
    keeper: Keeper | None = None,
    resume: Snapshot | None = None,
    compiled: bool = False,
    processes: Processes = ALONE,
) -> Progress:
    """Train `task` of `model` for one stage of its method.

    Args:
        model: a UserModel; `model.method` says what trains, what is shut, and what the loss is.
        loader: batches of the task's training examples; its order comes from its own generator.
        rng: generator of the loss (negatives, masks), on the fabric's device.
        fabric: a Lightning Fabric (or anything with `device`, `autocast()` and `backward(loss)`).
        validate: quality on the validation users, larger is better; None keeps the last state (or its average).
        keeper: checkpoints, signals, log.
        resume: tensors and document of an earlier snapshot of the same fit; the model's own tensors and the global
            generators are put back by the caller.
        compiled: run the loss through torch.compile.
        processes: those that train together; each calls `fit` in the same way, with a generator of its own.

    Returns:
        Where it ended. The model holds the best state.

    Raises:
        NonFiniteError: before anything was updated; names task, epoch, step and the first bad tensor.
        Interrupted: a signal came and the keeper has saved.
        DataError: no training examples. PromiseBroken: the method trains what is no part of the model.
    """
    keeper = keeper or Keeper()
    if len(loader) == 0:
        raise DataError(f"task {task} has no training examples", where=f"[[tasks]] {task}")
    method = method_of(model)
    trained = freeze(model, task, stage)
    optimizers = make_optimizers(trained.values(), settings)
    shut = {p: share.to(p.device) for p, share in method.shut(model, task, stage).items()}
    loss_of = through_compiler(method.loss) if compiled else method.loss
    steps = method.stage_steps = min(settings.epochs * len(loader), settings.max_steps or settings.epochs * len(loader))
    averages = Averages(trained, shut, settings.average)
    at, best = Progress(done=not trained), {}
    if resume is not None:
        at, best = _put_back(resume, trained, optimizers, averages, loader)
        rng.set_state(processes.own(resume[0][GENERATORS])["loss"])

    def snapshot() -> Snapshot:
        averages.take_off()  # a signal may come while they are validated; what is kept are the weights
        return _take(at, best, trained, optimizers, averages, loader, processes.gathered({"loss": rng.get_state()}))

    while not at.done:
        since = time.monotonic()
        if at.phase == "train":
            set_modes(model, set(trained.values()))
            for batch in loader:
                batch = batch.to(fabric.device)
                for optimizer in optimizers:
                    optimizer.zero_grad(set_to_none=True)
                    optimizer.param_groups[0]["lr"] = settings.learning_rate * share_of_rate(at.step, steps, settings)
                here = getattr(loader, "task", task)
                share, weight = processes.share(batch, model, here)
                with fabric.autocast():
                    loss = weight * loss_of(model, here, share, rng, at.step / steps)  # ()
                fabric.backward(loss)
                value, norm = processes.sum(loss, trained.values()), gradient_norm(trained.values())
                if not math.isfinite(value + norm):
                    raise _not_finite(task, at, value, model, trained)
                if 0 < settings.clip < norm:
                    scale_gradients(trained.values(), settings.clip / norm)
                _move(optimizers, shut, averages, at.step + 1)
                at.step, at.in_epoch = at.step + 1, at.in_epoch + 1
                at.loss, at.targets = at.loss + value, at.targets + round(model.terms(batch, here))
                keeper.tick(task=task, stage=stage, step=at.step, steps=steps, loss=value)
                if at.step >= steps:
                    break
                if at.in_epoch < len(loader) and processes.any(keeper.due()):
                    at.stepping, since = at.stepping + time.monotonic() - since, time.monotonic()
                    keeper.save(snapshot())
            at.phase, at.stepping, since = "validate", at.stepping + time.monotonic() - since, time.monotonic()
        last = at.epoch + 1 >= settings.epochs or at.step >= steps
        score = None
        if validate is not None and (last or (at.epoch + 1) % settings.evaluate_every == 0):
            with averages.worn():
                score = keeper.work(lambda: _validated(validate, fabric, task, at), snapshot)
                if at.best is None or score > at.best:
                    at.best, at.best_epoch, at.waiting = score, at.epoch + 1, 0
                    best = {name: tensor.detach().clone() for name, tensor in movable(model, trained).items()}
                else:
                    at.waiting += 1
        at.done = last or 0 < settings.patience <= at.waiting
        _close_epoch(at, score, time.monotonic() - since, keeper, task, stage)
        keeper.save(snapshot())
    _restore_best(model, trained, best or averages.now())
    return at


def _move(optimizers: list[Optimizer], shut: dict[Parameter, Tensor], averages: Averages, step: int) -> None:
    """Step number `step` (from 1) itself; what is shut does not take part, the averages follow."""
    rows = {p: named for p in shut if (named := touched(p)) is not None}
    before = {p: p.detach().index_select(0, rows[p]) if p in rows else p.detach().clone() for p in shut}
    averages.before()
    for optimizer in optimizers:
        optimizer.step()
    put_back_shut(shut, before, rows)
    averages.after(step)


# -- what may move ----------------------------------------------------------------------------------------------------


def freeze(model: UserModel, task: str, stage: str) -> dict[str, Parameter]:
    """Let exactly the parameters that the method names take gradients; name -> parameter, in the model's order."""
    wanted = {id(p) for p in method_of(model).trains(model, task, stage)}
    trained: dict[str, Parameter] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(id(parameter) in wanted)
        parameter.grad = None
        if id(parameter) in wanted:
            trained[name] = parameter
    if len(trained) != len(wanted):
        raise PromiseBroken(
            f"the method trains {len(wanted) - len(trained)} parameters that are not part of the model",
            where=f"{type(model.method).__name__}.trains, task {task}, stage {stage}",
            fix="let `overlay`, `head` or the method's constructor make them, so that they are saved with the model",
        )
    return trained


def set_modes(module: nn.Module, trained: set[Parameter], on: bool = True) -> None:
    """Train mode where something trains, else eval mode; a layer without parameters follows its parent."""
    own = next(module.parameters(), None)
    module.training = on if own is None else any(p in trained for p in module.parameters())
    for child in module.children():
        set_modes(child, trained, module.training)


def movable(model: nn.Module, trained: dict[str, Parameter]) -> dict[str, Tensor]:
    """What a fit may change: the trained parameters and every kept buffer."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: t for name, t in model.state_dict().items() if name not in parameters and isinstance(t, Tensor)}
    return {**trained, **buffers}


@torch.no_grad()
def put_back_shut(
    shut: Mapping[Parameter, Tensor],
    before: Mapping[Parameter, Tensor],
    rows: Mapping[Parameter, Tensor] | None = None,
) -> None:
    """Undo the step where it was shut: share 1 gets its old value back bit for bit, a part of it moves partly.

    Args:
        shut: parameter -> share that may not move, [0, 1], of its shape or one that expands to it.
        before: parameter -> what it was before the step; of those in `rows` these rows alone.
        rows: parameter -> the rows that the step moved, (n,), each once.
    """
    for parameter, share in shut.items():
        old, new, named = before[parameter], parameter.detach(), (rows or {}).get(parameter)
        share = share.to(parameter.dtype).expand_as(parameter)
        if named is not None:
            new, share = new.index_select(0, named), share.index_select(0, named)
        kept = torch.where(share >= 1, old, torch.where(share <= 0, new, torch.lerp(new, old, share)))
        if named is None:
            parameter.copy_(kept)
        else:
            parameter.index_copy_(0, named, kept)


def _not_finite(
    task: str, at: Progress, loss: float, model: nn.Module, trained: dict[str, Parameter]
) -> NonFiniteError:
    """The error for a step whose loss or gradients are not finite, naming the first bad tensor."""
    bad = next((f"weight {n}" for n, p in model.named_parameters() if not bool(torch.isfinite(p).all())), None)
    if bad is None and not math.isfinite(loss):
        bad = f"loss ({loss})"
    grads = {name: values_of(p.grad) for name, p in trained.items() if p.grad is not None}
    if bad is None:
        bad = next((f"gradient of {n}" for n, g in grads.items() if not bool(torch.isfinite(g).all())), None)
    if bad is None and grads:  # finite, but its square is not
        bad = f"gradient of {max(grads, key=lambda n: float(grads[n].abs().max()))}"
    return NonFiniteError(
        f"{bad} is not finite",
        where=f"task {task}, epoch {at.epoch + 1}, step {at.step + 1}",
        fix="lower learning_rate, set clip, or use 32-true precision; the last checkpoint is good",
    )


# -- one epoch's end, and snapshots -----------------------------------------------------------------------------------


def _validated(validate: Callable[[], float], fabric: Any, task: str, at: Progress) -> float:
    """Validation that leaves the global generators as they were."""
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        score = float(validate())
    if not math.isfinite(score):
        raise NonFiniteError(f"the validation value is {score}", where=f"task {task}, epoch {at.epoch + 1}")
    return score


def _close_epoch(at: Progress, score: float | None, validating: float, keeper: Keeper, task: str, stage: str) -> None:
    """Sum up the epoch, say so in the log, and begin the next."""
    mean = at.loss / max(at.in_epoch, 1)
    at.seconds += at.stepping + validating
    at.epoch += 1
    at.curve.append([mean, score])
    keeper.log(
        task=task,
        stage=stage,
        epoch=at.epoch,
        step=at.step,
        loss=mean,
        valid=score,
        best=at.best,
        seconds=round(at.seconds, 3),
        targets_per_second=round(at.targets / at.stepping, 1) if at.stepping > 0 else None,
        seconds_per_step=round(at.stepping / max(at.in_epoch, 1), 6),
    )
    at.phase, at.in_epoch, at.loss, at.targets, at.stepping = "train", 0, 0.0, 0, 0.0


def _restore_best(model: nn.Module, trained: dict[str, Parameter], best: dict[str, Tensor]) -> None:
    now = movable(model, trained)
    with torch.no_grad():
        for name, tensor in best.items():
            now[name].copy_(tensor)
    for parameter in trained.values():
        parameter.grad = None
    model.eval()


def _take(
    at: Progress, best, trained, optimizers, averages: Averages, loader: Batches, random: dict[str, Tensor]
) -> Snapshot:
    """Everything of a running fit but the model's tensors and the global generators."""
    names = {parameter: name for name, parameter in trained.items()}
    moments: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                where = f"{names[parameter]}/{key}"
                if isinstance(value, Tensor):
                    moments[where] = value
                else:
                    counts[where] = value
    tensors = {"optimizer.safetensors": moments, "best.safetensors": dict(best)}
    tensors[GENERATORS] = random
    document = {"progress": asdict(at), "loader": loader.state(), "counts": counts}
    if averages.decay:
        tensors["average.safetensors"], document["average"] = averages.state()
    return tensors, document


def _put_back(resume: Snapshot, trained, optimizers, averages: Averages, loader: Batches):
    """The opposite of `_take`: progress and best state; optimisers, averages and loader change in place."""
    tensors, document = resume
    owner = {parameter: optimizer for optimizer in optimizers for parameter in optimizer.param_groups[0]["params"]}
    for where, value in [*tensors["optimizer.safetensors"].items(), *document["counts"].items()]:
        name, _, key = where.rpartition("/")
        parameter = trained[name]
        moved = value.to(parameter.device) if isinstance(value, Tensor) else value
        owner[parameter].state[parameter][key] = moved
    if averages.decay:
        averages.restore(tensors["average.safetensors"], document["average"])
    loader.restore(document["loader"])
    device = next(iter(trained.values())).device if trained else "cpu"
    best = {name: tensor.to(device) for name, tensor in tensors["best.safetensors"].items()}
    return Progress(**document["progress"]), best


def make_fabric(device: str = "cpu", precision: str = "32-true", number: int = 0) -> Any:
    """A Lightning Fabric on one device: "cpu", "cuda" or "cuda:1"; precision "32-true" or "bf16-mixed". Where several
    processes train on "cuda", each has the GPU of its `number`.

    Raises:
        MachineError: no such device.
        SettingsError: another precision. (16-mixed scales its gradients, which would blind the guard before a step.)
    """
    from lightning_fabric import Fabric

    if precision not in ("32-true", "bf16-mixed"):
        raise SettingsError(f"precision {precision!r}", expected="32-true or bf16-mixed", where="[run] precision")
    kind, _, own = device.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else number + 1
    if kind not in ("cpu", "cuda") or (own and not own.isdecimal()) or int(own or number) >= count:
        have = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise MachineError(f"no device {device}", expected=f"one of {have}", where="[run] device")
    with contextlib.redirect_stderr(None), _unheard():
        return Fabric(accelerator=kind, devices=[int(own or number)] if kind == "cuda" else 1, precision=precision)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Inside, no LT_PRECISION or the like is set: Fabric would rather follow those than what it is given."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("LT_")}
    try:
        yield
    finally:
        os.environ.update(hidden)
