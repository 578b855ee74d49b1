"""The run folder: one writer, one identity, a log that can be rewound; checkpoints that are never none."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from model.faulty import Faulty, Killed

from perdure.errors import Interrupted, MachineError, ModelError, RunLocked, SettingsError, UsageError
from perdure.training import runlog
from perdure.training.checkpoint import Checkpoints
from perdure.training.display import Display
from perdure.training.runlog import RunLog, differences
from perdure.training.signals import Asked, Signals

IDENTITY = {"settings": {"train": {"epochs": 3}, "tasks": ["a", "b"]}, "data_digest": "d", "seed": 0, "device": "cpu"}

# -- the folder -------------------------------------------------------------------------------------------------------


def test_a_new_run_and_the_same_again(tmp_path):
    with RunLog(tmp_path / "run", IDENTITY) as run:
        assert not run.resuming
        run.log("note", text="é")
        run.begin()
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["state"] == "running" and told["versions"]["torch"] and told["threads"] == torch.get_num_threads()
    with RunLog(tmp_path / "run", IDENTITY, resume="auto") as run:
        assert run.resuming and run.same_machine
    with RunLog(tmp_path / "run", IDENTITY, resume="must") as run:
        assert run.resuming
    assert json.loads((tmp_path / "run" / "run.json").read_text())["resumed"] == 2


def test_killed_before_it_began(tmp_path):
    with RunLog(tmp_path, IDENTITY) as run:
        run.log("warning", text="said before the first step")
    with RunLog(tmp_path, IDENTITY, resume="auto") as run:
        assert not run.resuming and run.offset == 0
        run.log("warning", text="said before the first step")
        run.begin()
    with RunLog(tmp_path, IDENTITY, resume="auto") as run:
        assert run.resuming and run.offset == run.identity["log_from"] > 0


def test_refusals_of_opening(tmp_path):
    with pytest.raises(UsageError, match="no run to resume"), RunLog(tmp_path / "a", IDENTITY, resume="must"):
        pass
    with RunLog(tmp_path / "b", IDENTITY):
        pass
    with pytest.raises(UsageError, match="a run here already"), RunLog(tmp_path / "b", IDENTITY):
        pass
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("years of work")
    for resume in ("never", "auto"):
        with (
            pytest.raises(UsageError, match=r"not empty: thesis\.tex"),
            RunLog(tmp_path / "c", IDENTITY, resume=resume),
        ):
            pass
    assert (tmp_path / "c" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "d" / "store").mkdir(parents=True)
    with RunLog(tmp_path / "d", IDENTITY, expected=("store",)):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError), RunLog(tmp_path / "file", IDENTITY):
        pass


def test_what_is_broken_is_said(tmp_path):
    with RunLog(tmp_path, IDENTITY):
        pass
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ModelError, match="JSON"), RunLog(tmp_path, IDENTITY, resume="auto"):
        pass


MUTATIONS = {
    "another setting": ({"settings": {"train": {"epochs": 5}, "tasks": ["a", "b"]}}, "settings.train.epochs: 3 -> 5"),
    "a setting more": ({"settings": {**IDENTITY["settings"], "x": 1}}, "settings.x: None -> 1"),
    "a setting less": ({"settings": {"tasks": ["a", "b"]}}, "settings.train: {'epochs': 3} -> None"),
    "another order": ({"settings": {"train": {"epochs": 3}, "tasks": ["b", "a"]}}, "settings.tasks[0]: a -> b"),
    "another task": ({"settings": {"train": {"epochs": 3}, "tasks": ["a"]}}, "settings.tasks: ['a', 'b'] -> ['a']"),
    "other data": ({"data_digest": "e"}, "data_digest: d -> e"),
    "another seed": ({"seed": 1}, "seed: 0 -> 1"),
    "another device": ({"device": "cuda"}, "device: cpu -> cuda"),
}


@pytest.mark.parametrize("kind", MUTATIONS)
def test_another_run_is_refused_with_the_differences(tmp_path, kind):
    with RunLog(tmp_path, IDENTITY):
        pass
    change, message = MUTATIONS[kind]
    with pytest.raises(SettingsError) as fault, RunLog(tmp_path, {**IDENTITY, **change}, resume="auto"):
        pass
    assert message in fault.value.found and fault.value.exit_code == 2


@pytest.mark.parametrize("name", ["torch", "python", "perdure", "numpy"])
def test_another_version_is_refused(tmp_path, monkeypatch, name):
    with RunLog(tmp_path, IDENTITY):
        pass
    now = runlog.machine()
    now["versions"] = {**now["versions"], name: "0.0.1"}
    monkeypatch.setattr(runlog, "machine", lambda: now)
    with (
        pytest.raises(SettingsError, match=rf"versions\.{name}: .* -> 0\.0\.1"),
        RunLog(tmp_path, IDENTITY, resume="auto"),
    ):
        pass


def test_all_differences_at_once():
    assert differences({"a": 1, "b": {"c": 2}}, {"a": 2, "b": {"c": 3}}) == ["a: 1 -> 2", "b.c: 2 -> 3"]


def test_other_threads_warn(tmp_path):
    with RunLog(tmp_path, IDENTITY) as run:
        run.begin()
    told = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**told, "threads": 64}))
    with RunLog(tmp_path, IDENTITY, resume="auto") as run:
        assert not run.same_machine
        assert "threads: 64 -> " in run.notes[0]


def test_log_is_rewound(tmp_path):
    with RunLog(tmp_path, IDENTITY) as run:
        run.log("epoch", n=1)
        run.sync()
        at = run.offset
        run.log("epoch", n=2)
        run.rewind(at)
        run.log("epoch", n=3)
        assert run.offset > at
        run.rewind(10**9)
    lines = [json.loads(line)["n"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [1, 3]


def test_tensorboard_is_written_or_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    with RunLog(tmp_path / "a", IDENTITY, tensorboard=True) as run:
        run.log("epoch", task="a", stage="train", epoch=1, loss=0.5, valid=None)
    assert list((tmp_path / "a" / "tensorboard").glob("events*"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(SettingsError, match="TensorBoard is not installed"),
        RunLog(tmp_path / "b", IDENTITY, tensorboard=True),
    ):
        pass
    assert not (tmp_path / "b").exists(), "the folder is as free as it was"


# -- the lock ---------------------------------------------------------------------------------------------------------


def test_two_writers(tmp_path):
    with RunLog(tmp_path, IDENTITY):
        with (
            pytest.raises(RunLocked, match=f"process {os.getpid()}") as fault,
            RunLog(tmp_path, IDENTITY, resume="auto"),
        ):
            pass
        assert fault.value.exit_code == 8
    with RunLog(tmp_path, IDENTITY, resume="auto"):
        pass


def test_a_disk_without_locks_is_told_from_a_writer(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(MachineError, match="No locks available"), RunLog(tmp_path, IDENTITY):
        pass


HOLDER = """
import sys, time
from perdure.training.runlog import RunLog
with RunLog(sys.argv[1], {"settings": {}, "data_digest": "d", "seed": 0, "device": "cpu"}, resume="auto"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_writers_lock_opens_alone(tmp_path):
    identity = {**IDENTITY, "settings": {}}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=f"process {holder.pid}"), RunLog(tmp_path, identity, resume="auto"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == holder.pid  # stale, and in nobody's way
    with RunLog(tmp_path, identity, resume="auto"):
        pass


# -- checkpoints ------------------------------------------------------------------------------------------------------


def tensors(n: int) -> dict:
    return {"model.safetensors": {"w": torch.full((3,), float(n))}}


def test_two_are_kept_and_one_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="2 or more"):
        Checkpoints(tmp_path, keep=1)
    kept = Checkpoints(tmp_path, keep=2)
    for n in range(1, 6):
        assert kept.save(tensors(n), {"n": n}) == n
        assert kept.numbers() == list(range(max(1, n - 1), n + 1))
    found = kept.latest()
    assert found is not None and found.state == {"n": 5} and found.tensors["model.safetensors"]["w"][0] == 5
    assert Checkpoints(tmp_path / "none").latest() is None


@pytest.mark.parametrize("fault", ["kill", "torn", "ENOSPC", "EIO", "short"])
def test_every_operation_of_a_checkpoint_may_fail(tmp_path, fault):
    """Also those that delete the oldest. There is always a sound one, and the next save is never in the way."""
    counting = Faulty()
    kept = Checkpoints(tmp_path / "count")
    kept.save(tensors(1), {"n": 1})
    kept.save(tensors(2), {"n": 2})
    kept.disk = counting
    kept.save(tensors(3), {"n": 3})
    for at in range(counting.count):
        folder = tmp_path / str(at)
        kept = Checkpoints(folder)
        kept.save(tensors(1), {"n": 1})
        kept.save(tensors(2), {"n": 2})
        kept.disk = disk = Faulty(at, fault)
        try:
            kept.save(tensors(3), {"n": 3})
            done = True
        except (Killed, MachineError):
            done = False
        assert disk.count > at
        found = Checkpoints(folder).latest()
        assert found is not None and found.state["n"] in ((3,) if done else (2, 3)), (fault, at, counting.log[at])
        assert found.tensors["model.safetensors"]["w"].tolist() == [found.state["n"]] * 3
        again = Checkpoints(folder)
        again.save(tensors(4), {"n": 4})
        latest = again.latest()
        assert latest is not None and latest.state == {"n": 4}
        assert len(again.numbers()) == 2
        assert not list(folder.glob(".*"))


def test_a_full_disk_is_tried_three_times(tmp_path):
    class Full(Faulty):
        fails = 0

        def guard(self, name, real):
            def operation(*args):
                if name == "write" and self.fails > 0:
                    self.fails -= 1
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(*args)

            return operation

    kept = Checkpoints(tmp_path)
    kept.save(tensors(1), {"n": 1})
    kept.disk = disk = Full()
    disk.fails = 2
    kept.save(tensors(2), {"n": 2})
    disk.fails = 3
    with pytest.raises(MachineError, match="No space") as fault:
        kept.save(tensors(3), {"n": 3})
    assert fault.value.exit_code == 5 and "free some space" in fault.value.fix
    latest = kept.latest()
    assert latest is not None and latest.state == {"n": 2}


def test_all_damaged_is_an_error_and_nothing_is_deleted(tmp_path):
    kept = Checkpoints(tmp_path)
    for n in (1, 2):
        kept.save(tensors(n), {"n": n})
        (kept.path(n) / "state.json").write_bytes(b"{}")
    with pytest.raises(ModelError, match="digest"):
        kept.latest()
    assert kept.numbers() == [1, 2]


def test_a_newer_format_is_named(tmp_path, monkeypatch):
    from perdure.training import checkpoint

    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    Checkpoints(tmp_path).save(tensors(1), {})
    monkeypatch.undo()
    with pytest.raises(ModelError, match="format 99"):
        Checkpoints(tmp_path).latest()


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_once_asks_twice_stops(name):
    before = signal.getsignal(getattr(signal, name))
    with Signals() as signals:
        os.kill(os.getpid(), getattr(signal, name))
        assert signals.asked == name
        with pytest.raises(Asked), signals.raising():
            pass
        with pytest.raises(Interrupted, match="second signal"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
    assert signal.getsignal(getattr(signal, name)) == before


def test_raising_in_the_middle():
    with Signals() as signals, pytest.raises(Asked), signals.raising():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


# -- what a person sees -----------------------------------------------------------------------------------------------


def show_all(display: Display) -> None:
    display.step(task="a", stage="train", step=1, steps=10, loss=0.5)
    display.step(task="b", stage="retrain", step=2, steps=10, loss=0.5)
    display.epoch(task="a", stage="train", epoch=1, loss=0.5, valid=0.25, metric="ndcg@10", targets_per_second=1234.0)
    display.epoch(task="a", stage="retrain", epoch=1, loss=0.5, valid=None, metric="ndcg@10")
    display.row("a", {"a": 0.25}, {"a": "full ranking"})
    display.row("b", {"a": 0.25, "b": 0.5}, {"a": "full ranking", "b": "sampled: 9 uniform negatives, seed 0"})


def test_plain_lines_in_a_pipe(tmp_path):
    with (tmp_path / "out").open("w") as file, Display(file) as display:
        show_all(display)
    lines = (tmp_path / "out").read_text().splitlines()
    assert "a: epoch 1, loss 0.5000, ndcg@10 0.2500, 1,234 targets/s" in lines
    assert "a (retrain): epoch 1, loss 0.5000" in lines
    assert lines[-2] == "after a: a 0.2500"
    assert lines[-1] == "after b: a 0.2500, b 0.5000 (sampled: 9 uniform negatives, seed 0)"
    assert not any("\x1b" in line for line in lines)


def test_a_bar_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with (tmp_path / "out").open("w") as file, Display(file) as display:
        assert display.bar is not None
        show_all(display)
        for steps in (10, 30):  # two runs of a comparison that each train this task alone
            display.step(task="a", stage="train", step=1, steps=steps, loss=0.5)
        assert display.bar.tasks[-1].total == 30
    assert "after a" in (tmp_path / "out").read_text()


def test_long_work_besides_the_steps_in_a_pipe(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("perdure.training.display.time.monotonic", lambda: now[0])
    with (tmp_path / "out").open("w") as file, Display(file) as display:
        for done in range(13):  # one a second: nothing in the first five, then a line every five
            display.phase("reading the log", 1000 * done, 12000, "MiB")
            now[0] += 1.0
        display.phase("writing the store", 1, 2, "events")  # short, so never told
    assert (tmp_path / "out").read_text().splitlines() == [
        "reading the log: 6,000 of 12,000 MiB",
        "reading the log: 12,000 of 12,000 MiB",
    ]


def test_long_work_besides_the_steps_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with (tmp_path / "out").open("w") as file, Display(file) as display:
        assert display.bar is not None
        for done in (3, 7):
            display.phase("reading the log", done, 12, "MiB")
        (row,) = display.bar.tasks  # one row, that of what goes on now
        assert (row.description, row.completed, row.total) == ("reading the log (MiB)", 7, 12)
        display.phase("measuring", 0, 9, "users")
        assert [(row.description, row.total) for row in display.bar.tasks] == [("measuring (users)", 9)]
        display.step(task="a", stage="train", step=1, steps=10, loss=0.5)
        assert [row.description for row in display.bar.tasks] == ["a  loss 0.5000"]


def test_a_closed_pipe_is_silence(tmp_path):
    with (tmp_path / "out").open("w") as file, Display(file) as display:
        file.close()
        show_all(display)
