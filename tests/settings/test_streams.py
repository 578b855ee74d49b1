"""A stream with a task of random labels in it."""

from __future__ import annotations

import pytest
from cli.small import make

from perdure import registry
from perdure.errors import SettingsError
from perdure.settings import from_dict, load
from perdure.settings.streams import with_noise


def named(count: int) -> list[dict]:
    return [{"name": f"t{place}", "kind": "item"} for place in range(count)]


@pytest.mark.parametrize(("count", "place"), [(1, 1), (2, 1), (3, 2), (4, 3), (6, 3), (20, 3)])
def test_noise_comes_between_the_third_and_the_fourth_or_before_the_last(count, place):
    tasks = named(count)
    noisy = with_noise(tasks)
    assert [task["name"] for task in noisy].index("noise") == place
    assert [task for task in noisy if task["name"] != "noise"] == tasks == named(count)
    assert noisy[place]["classes"] == 50 and noisy[place]["kind"] == "one_of"


def test_a_task_of_that_name_is_not_displaced():
    with pytest.raises(SettingsError, match="already"):
        with_noise([{"name": "a", "kind": "item"}, {"name": "Noise", "kind": "item"}])


def test_the_noisy_stream_is_a_recipe(tmp_path):
    settings = load(make(tmp_path), parts=registry)
    tables = with_noise(settings.as_dict()["tasks"], classes=4, share=0.5)
    changed = from_dict({**settings.as_dict(), "tasks": tables}, parts=registry, folder=settings.folder)
    assert [task.name for task in changed.tasks] == ["watch", "buy", "noise", "gender"]
    noise = changed.tasks[2]
    assert (noise.answer, noise.classes, noise.share) == ("noise", 4, 0.5)
