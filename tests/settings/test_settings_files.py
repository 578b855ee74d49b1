"""Recipe files that are none: missing, no plain file, unreadable, too large, not TOML."""

from __future__ import annotations

import os

import pytest

from perdure import registry
from perdure.errors import SettingsError
from perdure.settings import from_dict, toml


def fault(path) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        toml.read(path)
    return caught.value


def test_missing_file_names_the_nearest_folder(tmp_path):
    error = fault(tmp_path / "no" / "such" / "recipe.toml")
    assert "RECIPE" in error.where and str(tmp_path) in error.fix


def test_folder_and_pipe(tmp_path):
    assert "folder" in fault(tmp_path).found
    os.mkfifo(tmp_path / "pipe")
    assert "special file" in fault(tmp_path / "pipe").found


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("")
    path.chmod(0)
    assert "mode 000" in fault(path).found


def test_too_large(tmp_path):
    path = tmp_path / "r.toml"
    path.write_bytes(b"#" * (toml.LIMIT + 1))
    assert "1 MiB" in fault(path).expected


YAML = {
    "object": "a: !!python/object/apply:os.system ['echo']\n",
    "bomb": "a: &a [x,x]\nb: &b [*a,*a]\n",
    "twice": "a: 1\na: 2\n",
    "tab": "a:\n\t- 1\n",
    "no": "country: no\n",
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_row_55_yaml_is_not_read(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert "TOML, not YAML" in fault(path).fix


@pytest.mark.parametrize(
    "data",
    [
        b"[train]\nepochs = 1\nepochs = 2\n",
        b"\xff\xfe[",
        b"a = ",
        b"[a]\n[a]\n",
        b"a = 1\x00",
        b"x = " + b"[" * 100_000,
        b"[train]\nepochs = " + b"1" * 5000,
    ],
    ids=["twice", "encoding", "cut", "table twice", "nul", "deep", "long number"],
)
def test_not_toml(tmp_path, data):
    path = tmp_path / "recipe.toml"
    path.write_bytes(data)
    assert "not TOML" in fault(path).found


def test_byte_order_mark(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_bytes("\ufeff[train]\nepochs = 1\n".encode())
    assert toml.read(path) == {"train": {"epochs": 1}}


def test_an_override_of_thousands_of_digits_is_a_fault_of_its_key():
    with pytest.raises(SettingsError, match=r"train\.epochs: .* expected a whole number"):
        from_dict({}, ["train.epochs=" + "1" * 5000], parts=registry)
