"""The registry finds what lies in the folders, by the names of files, and nothing else."""

from __future__ import annotations

import pytest

import perdure
from perdure import registry


@pytest.mark.parametrize("kind", list(registry.KINDS))
def test_every_name_is_found(kind):
    assert registry.names(kind) == sorted(registry.names(kind))
    assert registry.names(kind)
    for name in registry.names(kind):
        assert registry.find(kind, name).name == name


def test_what_issue_two_names_is_there():
    assert {"finetune", "frozen", "pcl", "peterrec", "single"} <= set(registry.names("methods"))
    assert {"gru4rec", "nextitnet", "sasrec"} <= set(registry.names("encoders"))
    assert "next_item" in registry.names("objectives")
    assert "table" in registry.names("formats")


@pytest.mark.parametrize("name", ["pcll", "base", "__init__", "os", "../settings", "perdure.settings", ""])
def test_other_names_are_refused(name):
    with pytest.raises(perdure.UsageError):
        registry.find("methods", name)


def test_nearest_name():
    with pytest.raises(perdure.UsageError, match="did you mean peterrec"):
        registry.find("methods", "peterec")
    with pytest.raises(perdure.UsageError, match="one of encoders"):
        registry.names("metods")
    with pytest.raises(perdure.UsageError) as fault:
        perdure.list_("methds")
    assert fault.value.fix == "did you mean methods?"


def test_list_tells_keeps_paper_and_summary():
    told = {entry["name"]: entry for entry in perdure.list_("methods")}
    assert told["pcl"]["keeps"] and not told["finetune"]["keeps"]
    for kind in registry.KINDS:
        for entry in perdure.list_(kind):
            assert entry["summary"] and "\n" not in entry["summary"]


FILES = {
    "other.py": (
        'class Mine:\n    name = "mine"\n',
        ["tuning/other.py holds no class of that name, but 'mine'", '= "other"'],
    ),
    "helper.py": ("def help_me(): ...\n", ["tuning/helper.py holds no class of that name", '= "helper"']),
    "mine.py": ('class Mine:\n    name = "mine"\n    paper = ""\n', ["method mine does not declare summary, keeps"]),
}


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_no_whole_part_says_what_it_lacks(tmp_path, monkeypatch, file):
    text, told = FILES[file]
    (tmp_path / file).write_text(text, encoding="utf-8")
    monkeypatch.setattr("perdure.tuning.__path__", [str(tmp_path)])
    monkeypatch.setattr(registry, "_names", lambda kind: (file.removesuffix(".py"),))
    with pytest.raises(perdure.UsageError) as fault:
        registry.find("methods", file.removesuffix(".py"))
    assert not [part for part in told if part not in str(fault.value)] and fault.value.fix
