"""Law 3: encoders name no method, tuning names no encoder, and nobody tells things apart by parts of their names."""

from __future__ import annotations

import ast
import re

from laws.house import modules

FOR_PEOPLE = {"paper", "summary"}
PARTS = {"base", "features", "parts", "readouts", "__init__"}


def names_in(room: str) -> set[str]:
    return {m.path.stem for m in modules() if m.room == room and m.path.stem not in PARTS}


def code_words(module) -> set[str]:
    """Identifiers and string constants of the code; docstrings, comments and texts for people left out."""
    words: set[str] = set()
    docs = {
        id(node.body[0].value)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in FOR_PEOPLE:
            docs |= {id(inner) for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.alias):
            words |= set(node.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            words |= set((node.module or "").split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            words |= set(re.findall(r"\w+", node.value))
    return {word.lower() for word in words}


def test_encoders_name_no_method():
    methods = names_in("tuning")
    wrong = {m.place: code_words(m) & methods for m in modules() if m.room in {"encoders", "model", "objectives"}}
    wrong = {place: names for place, names in wrong.items() if names}
    assert not wrong, f"{wrong}: names of methods; a new method takes a name that is no word of the code yet"


def test_tuning_names_no_encoder():
    encoders = names_in("encoders")
    wrong = {m.place: code_words(m) & encoders for m in modules() if m.room in {"tuning", "objectives"}}
    wrong = {place: names for place, names in wrong.items() if names}
    assert not wrong, f"{wrong}: names of encoders; a new encoder takes a name that is no word of the code yet"


def test_nobody_tests_parameter_names_by_substring():
    """No `"adapter" in name`, no `name.startswith("e")` where weights are chosen."""
    wrong = []
    for module in modules():
        if module.room not in {"encoders", "tuning", "objectives", "model"}:
            continue
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Compare)
                and any(isinstance(op, ast.In | ast.NotIn) for op in node.ops)
                and isinstance(node.left, ast.Constant)
                and isinstance(node.left.value, str)
                and isinstance(node.comparators[0], ast.Name)
                and node.comparators[0].id in {"name", "key", "n", "path", "site"}
            ):
                wrong.append(f"{module.place}:{node.lineno}")
    assert not wrong, f"{wrong}: ask for the role of the layer or the shape of the weight, not for a part of its name"


def test_file_name_is_registered_name():
    """In each of these rooms a file holds the class whose `name` is the file's: found by looking, not by a list."""
    wrong = []
    for module in modules():
        if module.room not in {"encoders", "tuning", "objectives"} or module.path.stem in PARTS:
            continue
        told = {
            node.value.value
            for cls in module.tree.body
            if isinstance(cls, ast.ClassDef)
            for node in cls.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name) and target.id == "name"
        }
        if module.path.stem not in told:
            wrong.append(f"{module.place}: name = {sorted(map(str, told))}")
    assert not wrong, "\n".join(wrong)
