"""Signals that were ignored when a process began stay ignored: `nohup`, and what a shell puts into the background."""

from __future__ import annotations

import os
import signal

import pytest

from perdure.cli import main
from perdure.training.signals import Signals


@pytest.fixture
def ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield signal.SIGHUP
    signal.signal(signal.SIGHUP, before)


def test_an_ignored_signal_stops_no_run(ignored):
    with Signals() as signals:
        assert signal.getsignal(ignored) is signal.SIG_IGN
        os.kill(os.getpid(), ignored)
        assert signals.asked is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.asked == "SIGTERM"
    assert signal.getsignal(ignored) is signal.SIG_IGN


def test_an_ignored_signal_stops_no_command(ignored):
    before = main._listen()
    try:
        assert ignored not in before and signal.SIGTERM in before
        os.kill(os.getpid(), ignored)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_handler_that_c_code_had_set_is_not_asked_for_again(monkeypatch):
    given = {}
    monkeypatch.setattr(signal, "signal", lambda number, handler: given.__setitem__(number, handler))  # gives None
    with Signals():
        assert given
    assert all(handler is signal.SIG_DFL for handler in given.values())
