"""The settings of a run: TOML in, every fault at once, the whole effective settings out.

[data] [history] [split]      where the log lies, what of it is input, who is judged
[profile] [input]             what is read of users and of events besides the history's items
[encoder] [objective]         name and options of the backbone and of its pre-training
[pretrain] [train]            how the first task, and every task, is trained
[tuning]                      method and options
[[tasks]]                     what to learn, in this order
[evaluate] [run]              how it is measured; seed, threads, device, precision, name
"""

from __future__ import annotations

from perdure.settings.faults import Fault, SettingsFaults
from perdure.settings.recipe import Settings, from_dict, load
from perdure.settings.schema import schema_of, words
from perdure.settings.sections import (
    EvaluateSettings,
    FriendsSettings,
    InputSettings,
    Part,
    PretrainSettings,
    ProfileSettings,
    RunSettings,
)
from perdure.train_settings import TrainSettings

__all__ = [
    "EvaluateSettings",
    "Fault",
    "FriendsSettings",
    "InputSettings",
    "Part",
    "PretrainSettings",
    "ProfileSettings",
    "RunSettings",
    "Settings",
    "SettingsFaults",
    "TrainSettings",
    "from_dict",
    "load",
    "schema_of",
    "words",
]
