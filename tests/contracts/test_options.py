"""What every part owes its users: options that a recipe can set and the schema can check."""

from __future__ import annotations

import inspect

import members
import pytest

from perdure import registry

KINDS = ("encoders", "methods", "objectives")
GIVEN = {"encoders": ["n_items"]}  # by the model, in this order


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in registry.names(kind)])
def test_options_are_keywords_with_a_type(kind, name):
    every = members.options(kind, name).values()
    assert [p.name for p in every if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == GIVEN.get(kind, []), (
        "options stand behind a `*`: nothing else is found in a recipe"
    )
    options = [p for p in every if p.kind is inspect.Parameter.KEYWORD_ONLY]
    bare = [p.name for p in options if p.annotation is inspect.Parameter.empty]
    assert not bare, f"{bare}: an option without a type is not checked"
    lost = {"width", "max_length"} - {p.name for p in options} if kind == "encoders" else set()
    assert not lost, f"{lost}: what every encoder can be told"
