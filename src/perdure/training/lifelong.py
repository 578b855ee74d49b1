"""A model's life: tasks learned one after the other; after each, all tasks so far are measured and the model published.

for every task (or for every group of tasks that the method learns at once):
    make room in the model (`model.add`)
    for every stage of the method:  enter, fit, leave
    settle, hold the method to what it keeps
    measure all tasks so far on their test users: a row of R
    publish the model folder, checkpoint
                                                                                                   [reads, writes]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from perdure.errors import ModelError, UsageError
from perdure.evaluation.evaluate import PRIMARY, evaluate
from perdure.evaluation.matrix import Matrix
from perdure.events.examples import TaskData
from perdure.events.loader import Loader
from perdure.model import store
from perdure.model.files import check_tensors, remove_tree
from perdure.model.user_model import UserModel
from perdure.train_settings import TrainSettings
from perdure.training.cards import asked, card_of, item_counts, refuse_untested
from perdure.training.checkpoint import Checkpoint, Checkpoints, Saver, global_state, restore_global_state
from perdure.training.life import Learned, Life, as_json, geometric_mean, seed_of
from perdure.training.loop import ALONE, Batches, Snapshot, fit, make_fabric
from perdure.training.mixture import Mixture, loader_of, refuse_torn_groups
from perdure.training.processes import Processes
from perdure.training.promises import ground, hold, probe
from perdure.training.published import standing, whole
from perdure.training.room import TEACHERS, room
from perdure.training.runlog import RunLog, now
from perdure.training.signals import Asked, Signals
from perdure.tuning.base import Method, method_of


def learn(
    model: UserModel,
    datas: Mapping[str, TaskData],
    order: Sequence[str],
    settings: Mapping[str, TrainSettings],
    run: RunLog,
    *,
    sizes: Mapping[str, Mapping[str, int]] | None = None,
    seed: int = 0,
    fabric: Any = None,
    evaluate: Callable[..., Any] = evaluate,
    compiled: bool = False,
    show: Any = None,
    processes: Processes = ALONE,
) -> Learned:
    """Teach `model` the tasks of `order`, one after the other, or in groups where its method learns several at once.

    Args:
        model: fresh, or one that already knows the first tasks of `order` (a pre-trained folder, loaded): those are
            measured, not trained. To resume, give a model made in the same way as the first time.
        datas: task -> compiled data.
        settings: task -> how it is trained.
        run: an entered RunLog; when it is resuming, the life goes on from the newest sound checkpoint.
        sizes: task -> what it takes, as in `room`, which is asked of the disk before every task.
        evaluate: `(model, data, split) -> Score`, here "valid" and "test".
        compiled: torch.compile the losses.
        show: a `display.Display`, or anything with step, epoch and row.
        processes: those that train together, each on its `fabric`'s device. The first measures and writes; the others
            have a `runlog.Silent`, and what they return has no matrix.

    Raises:
        UsageError: the model knows other tasks, or part of a group. DataError: a task without test users.
        Interrupted: SIGTERM or Ctrl-C; all is saved.
        NonFiniteError, PromiseBroken, MachineError, ModelError: see errors.py.
    """
    fabric = fabric or make_fabric()
    known = list(model.tasks)
    if known != list(order[: len(known)]):
        raise UsageError(
            f"the model knows {', '.join(known)}", expected=f"the first tasks of {', '.join(order)}", where="tasks"
        )
    refuse_torn_groups(method_of(model), known, order)
    refuse_untested(datas, order)
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []), Signals() as signals:
        kept = Checkpoints(run.folder / "checkpoints", disk=run.disk, sweep=processes.first)
        return _Teacher(
            model=model.to(fabric.device), datas=datas, order=list(order), settings=settings, sizes=sizes or {},
            run=run, signals=signals, fabric=fabric, checkpoints=kept, seed=seed, evaluate=evaluate,
            compiled=compiled, show=show, processes=processes,
        ).live()  # fmt: skip


@dataclass
class _Teacher:
    """One life being lived: what `learn` needs in more than one of its steps."""

    model: UserModel
    datas: Mapping[str, TaskData]
    order: list[str]
    settings: Mapping[str, TrainSettings]
    sizes: Mapping[str, Mapping[str, int]]
    run: RunLog
    signals: Signals
    fabric: Any
    checkpoints: Checkpoints
    seed: int
    evaluate: Callable[..., Any]
    compiled: bool
    show: Any
    processes: Processes
    life: Life = field(default_factory=Life)

    @property
    def method(self) -> Method:
        """The model's tuning method."""
        return method_of(self.model)

    def live(self) -> Learned:
        """All tasks, from the beginning or from the newest checkpoint."""
        found = self.checkpoints.agreed(self.processes) if self.run.resuming else None
        if self.run.resuming and found is None and self.processes.told(self._stands):
            self.life.task = len(self.order)
        elif self.run.resuming:
            self.run.rewind(self.run.identity["log_from"] if found is None else found.state["log"])
        else:
            self.run.begin()
        running = None if found is None else self._go_on(found)
        for note in [*self.run.notes, *self.checkpoints.notes]:
            self.run.log("warning", text=note)
        self.model.eval()
        for group in self.method.order(self.order):
            if self.order.index(group[-1]) >= self.life.task:
                if self.processes.first:
                    self.run.need(room(self.model, self.sizes, self.checkpoints.keep, self.run.folder))
                self._learn(group, running)
                running = None
        self.run.state("finished", finished=now())
        for folder in (self.run.folder / name for name in TEACHERS):
            if self.processes.first and folder.exists():
                remove_tree(folder, self.run.disk)
        return self._learned()

    # -- one task, or a group of tasks under the name of its last ---------------------------------------------------

    def _learn(self, group: list[str], running: Checkpoint | None) -> None:
        """Train, hold, measure, publish, checkpoint. `running` was taken while this group was being trained."""
        model, life, name = self.model, self.life, group[-1]
        if name not in model.tasks:
            self._teach(fresh=running is None)
            self._add(group)
        if not model.tasks[name].settled:  # or else it was learned before this life
            for index in range(life.stage, len(self.method.stages)):
                life.stage = index
                self._stage(group, self.method.stages[index], running)
                running = None
        else:
            self._prepare()
        counted = self._uncut(lambda: [task for task in group if self._remember(task)])
        for task in group:
            model.settle(task)
        life.task, life.stage = self.order.index(name) + 1, 0
        if self.processes.first:
            self._uncut(lambda: self._hold(group))
            self._judge_again(counted)
            self._measure(name)
            self._publish(group)
        life.ground, life.fits, life.trainable = {}, [], 0
        self._saver(name).save(({}, {}))

    def _teach(self, *, fresh: bool) -> None:
        """Where the method learns from the model as it is before the next task, that model is kept in a folder: in one
        of two by turns, as the newest checkpoint may be damaged and the one before it be of the task before."""
        if not self.method.needs_teacher or not self.model.tasks:
            return
        folder = self.run.folder / TEACHERS[len(self.model.tasks) % 2]
        if fresh and self.processes.first:
            store.save(self.model, folder)
        self.processes.any(False)  # the others read it when it is there
        self.method.taught_by(store.twin(self.model, folder))

    def _add(self, group: list[str]) -> None:
        for name in group:
            if name not in self.model.tasks:
                self.model.add(card_of(self.datas[name]), self._generator(name, "init"))

    def _remember(self, name: str) -> bool:
        """A method's last look at the task, for what it keeps of it; whether its head answers otherwise from now on."""
        head = self.model.heads[name]
        before = [kept.clone() for kept in head.buffers()]
        rng = torch.Generator(self.fabric.device)
        rng.manual_seed(seed_of(self.seed, name, "remember", "loss"))
        torch.manual_seed(seed_of(self.seed, name, "remember", "dropout"))
        datas = [self.datas[task] for task in self.order[: self.order.index(name) + 1]]
        batches = (batch.to(self.fabric.device) for batch in self._loader(name, "remember"))
        settled = self.model.tasks[name].settled  # and so learned before this life
        if self.processes.first and not (settled and self.method.keeps):
            self.method.remember(self.model, name, datas, batches, rng)
        self.processes.spread(self.model.state_dict().values())
        self.life.relations[name] = self.method.relations(self.model, name)
        self.method.taught_by(None)
        return not all(torch.equal(*both) for both in zip(before, head.buffers(), strict=True))

    def _stage(self, group: list[str], stage: str, running: Checkpoint | None) -> None:
        """enter, fit, leave; with the ground digests around it. `running` was taken during the fit."""
        model, life, method, name = self.model, self.life, self.method, group[-1]
        before: dict[str, str] = {}
        if running is None:
            torch.manual_seed(seed_of(self.seed, name, stage, "dropout"))
            before = self._ground(name)
        method.enter(stage, model, name)
        if running is not None:
            self._put_back(running)
        trained, shut = set(method.trains(model, name, stage)), method.shut(model, name, stage)
        if running is None:
            life.ground = {n: before.get(n, digest) for n, digest in self._ground(name, trained, shut).items()}
            life.trainable = max(life.trainable, sum(p.numel() for p in trained))
        if life.task == life.stage == 0 and running is None:
            self._uncut(lambda: model.backbone.study(self.datas[group[0]], self._generator(group[0], "study")))
        self._prepare()
        rng = torch.Generator(self.fabric.device)
        rng.manual_seed(seed_of(self.seed, name, stage, "loss", *self.processes.names))
        self.processes.hold(model.state_dict(), f"before {name}, stage {stage}")
        if running is None and not self.processes.first:
            torch.manual_seed(seed_of(self.seed, name, stage, "dropout", *self.processes.names))
        saver = self._saver(name)
        at = fit(
            model,
            name,
            stage,
            self.settings[name],
            loader=self._batches(group, stage),
            rng=rng,
            fabric=self.fabric,
            validate=self._judge(group, saver),
            keeper=saver,
            resume=None if running is None else (running.tensors, running.state["fit"]),
            compiled=self.compiled,
            processes=self.processes,
        )
        method.leave(stage, model, name)
        self.processes.hold(model.state_dict(), f"after {name}, stage {stage}")
        if life.ground:
            hold(life.ground, self._ground(name, trained, shut), method.name, name)
        life.fits.append({"stage": stage, **{k: v for k, v in asdict(at).items() if k in ("epoch", "seconds", "best")}})

    def _prepare(self) -> None:
        """The objective meets the data of the newest task that it learns, which may be replayed or looked at again."""
        if pairs := [self.datas[task] for task, card in self.model.tasks.items() if card.kind == "next_item"]:
            counts = item_counts(pairs[-1], self.model.backbone.n_items)
            self.model.objective.prepare(torch.from_numpy(counts).to(self.fabric.device), pairs[-1])

    def _ground(self, name: str, trained: Set[Parameter] = frozenset(), shut: Mapping | None = None) -> dict[str, str]:
        """What older tasks stand on, before and after a stage; nothing where the method promises nothing."""
        older = self.order[: self.order.index(name)]
        return ground(self.model, older, trained, shut or {}) if self.method.keeps and older else {}

    def _judge(self, group: list[str], saver: Saver) -> Callable[[], float] | None:
        """Quality on the validation users: the task's measure, or of a group the geometric mean."""
        judged = [self.datas[task] for task in group if asked(self.datas[task].valid)]

        def validate() -> float:
            scores = [self.evaluate(self.model, data, "valid") for data in judged]
            label = getattr(scores[0], "label", saver.metric) if len(judged) == 1 else "geometric mean of all tasks"
            saver.metric = self.life.judged[group[-1]] = label
            return geometric_mean([score.value for score in scores])

        return validate if judged else None

    def _batches(self, group: list[str], stage: str) -> Batches:
        """Training batches of a task, or of a group those of its tasks as the method mixes them."""
        if len(group) == 1:
            return self._loader(group[0], stage)
        loaders = {task: self._loader(task, stage) for task in group}
        shares = self.method.shares({task: len(self.datas[task].train) for task in group})
        return Mixture(loaders, shares, self._generator(group[-1], stage, "mixture"))

    def _loader(self, name: str, stage: str) -> Loader:
        return loader_of(self.model, self.datas[name], self.settings[name], self._generator(name, stage, "order"))

    def _generator(self, *names: str) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(self.seed, *names))

    # -- after a task -----------------------------------------------------------------------------------------------

    def _hold(self, group: list[str]) -> None:
        """Older tasks answer their probes byte for byte as they did when they were learned."""
        older = [task for task in self.life.probes if task not in group]
        if self.method.keeps:
            told = {f"answers of {task}": probe(self.model, self.datas[task]) for task in older}
            hold({f"answers of {task}": self.life.probes[task] for task in older}, told, self.method.name, group[-1])
        self.life.probes |= {task: probe(self.model, self.datas[task]) for task in group}

    def _judge_again(self, counted: list[str]) -> None:
        """Tasks whose head counted something after training, as they are served: their epochs tell of less."""
        for task in counted:
            if asked(self.datas[task].valid):
                score = self._uncut(lambda task=task: self.evaluate(self.model, self.datas[task], "valid"))
                told = {"metric": getattr(score, "label", ""), "valid": float(score.value)}
                self.run.log("counted", task=task, **told)
                if hasattr(self.show, "counted"):
                    self.show.counted(task, **told)

    def _uncut(self, work: Callable[[], Any]) -> Any:
        """The result. A signal stops it; the checkpoint of the finished fit, if there was one, stands."""
        try:
            with self.signals.raising():
                return work()
        except Asked:
            raise self.signals.interrupted() from None

    def _measure(self, name: str) -> None:
        """A row of R."""
        so_far = self.order[: self.order.index(name) + 1]
        row: dict[str, float] = {}
        self.life.scores = [s for s in self.life.scores if s["after"] != name]
        for task in so_far:
            score = self._uncut(lambda task=task: self.evaluate(self.model, self.datas[task], "test"))
            row[task] = float(score.value)
            told = score.to_dict()
            self.life.scores.append({"after": name, **as_json(told)})
            self.model.tasks[task].metric = told["metric"]
        self.life.rows += [[] for _ in so_far[len(self.life.rows) + 1 :]]  # tasks learned together have one row
        self.life.rows.append([row[task] for task in so_far])
        protocols = dict(self._learned().matrix.protocols)
        self.run.log("row", task=name, scores=row, protocols=protocols)
        if self.show is not None:
            self.show.row(name, row, protocols)

    def _publish(self, group: list[str]) -> None:
        """The model folder and what it cost."""
        life, run, matrix = self.life, self.run, self._learned().matrix.to_dict()
        extra = {"matrix": matrix, "data_digest": run.identity.get("data_digest", ""), "seed": self.seed}
        extra |= {key: run.identity[key] for key in ("settings", "versions")} | {"probes": dict(life.probes)}
        store.save(self.model, run.folder / "model", extra)
        life.costs += life.spent(group, run.folder / "model", self.method.capacity(self.model))
        run.write("matrix.json", matrix)
        run.write("scores.json", life.scores)
        run.write("cost.json", life.costs)
        if any(life.relations.values()):
            run.write("relations.json", life.relations)

    def _learned(self) -> Learned:
        life = self.life
        told = [{s["task"]: s[key] for s in life.scores if key in s} for key in ("metric", "protocol")]
        return Learned(Matrix(self.order[: len(life.rows)], life.rows, *told), life.scores, life.costs)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _saver(self, name: str) -> Saver:
        card = self.model.tasks[name]
        minutes = self.settings[name].checkpoint_minutes if name in self.settings else 5.0
        return Saver(
            self.checkpoints,
            self.run,
            self.signals,
            self._snapshot,
            minutes=minutes,
            metric=self.life.judged.get(name) or card.metric or PRIMARY[card.kind],
            show=self.show,
            processes=self.processes,
        )

    def _snapshot(self) -> Snapshot:
        """All of the model, the global generators, and where the life stands."""
        tensors: dict[str, Tensor] = dict(self.model.state_dict())
        random = self.processes.gathered({f"global {k}": v for k, v in global_state(self.fabric.device).items()})
        where = {"life": asdict(self.life), "order": self.order}
        return {"model.safetensors": tensors, "random.safetensors": random}, where

    def _go_on(self, found: Checkpoint) -> Checkpoint | None:
        """Back to where a checkpoint was taken: at the end of a task, or, when it is returned, while one was trained.
        Then that task begins as it did, and the rest is put back when its stage has begun."""
        state = found.state
        self.life = Life(**state["life"])
        if (told := ", ".join(state["order"])) != ", ".join(self.order):
            raise ModelError(f"the run learned {told}", expected=", ".join(self.order), where="order of tasks")
        self._make_room()
        if state["fit"]:
            return found
        self._put_back(found)
        if self.life.task == len(self.order) and self.processes.first and not whole(self.run, self.order, self.life):
            self._publish(self.method.order(self.order)[-1])
        return None

    def _make_room(self) -> None:
        """The structure of a model that has learned the tasks of before."""
        for group in self.method.order(self.order):
            if self.order.index(group[-1]) < self.life.task:
                self._add(group)
                for task in group:
                    self.model.settle(task)
        for score in self.life.scores:
            self.model.tasks[score["task"]].metric = score["metric"]

    def _stands(self) -> bool:
        """Whether all is learned, though there is no checkpoint; then the life is what was published."""
        if (life := standing(self.run, self.order)) is not None:
            self.life = life
            self._make_room()
            self.model.load_state_dict(store.twin(self.model, self.run.folder / "model").state_dict())
        return life is not None

    def _put_back(self, found: Checkpoint) -> None:
        """The tensors and generators of a checkpoint, into a model of the same structure."""
        model, life, where = self.model, self.life, str(self.checkpoints.path(found.number))
        check_tensors(model.state_dict(), found.tensors["model.safetensors"], f"{where}/model.safetensors")
        model.load_state_dict(found.tensors["model.safetensors"])
        random = self.processes.own(found.tensors["random.safetensors"]).items()
        restore_global_state({k.removeprefix("global "): v for k, v in random}, self.fabric.device)
        if not self.run.same_machine and self.processes.first:  # other bits are to be expected of the same weights
            life.probes = {task: probe(model, self.datas[task]) for task in life.probes}
