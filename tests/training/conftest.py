from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_platter(monkeypatch):
    """fsync costs most of these tests' time and changes nothing that a killed process could see."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
