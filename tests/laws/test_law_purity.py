"""Law 10: functions in `functional/` do not change what they are given, and say what they return by shape."""

from __future__ import annotations

import ast

from laws.house import modules

FUNCTIONAL = [m for m in modules() if m.room == "functional"]


def arguments_of(node: ast.FunctionDef) -> set[str]:
    a = node.args
    return {x.arg for x in [*a.posonlyargs, *a.args, *a.kwonlyargs]} - {"ctx", "self", "generator", "rng"}


def rebound(node: ast.FunctionDef) -> set[str]:
    """Names given a new value inside: after `x = x.clone()` a change of x is no longer a change of the argument."""
    return {t.id for n in ast.walk(node) if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}


def test_no_argument_is_written_to():
    """No in-place method (`x.add_(…)`), no item or attribute assignment and no `out=` on an argument."""
    wrong = []
    for module in FUNCTIONAL:
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            given = arguments_of(node) - rebound(node)
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
                    owner = inner.func.value
                    name = inner.func.attr
                    inplace = name.endswith("_") and not name.startswith("_") and name != "requires_grad_"
                    if inplace and isinstance(owner, ast.Name) and owner.id in given:
                        wrong.append(f"{module.place}:{inner.lineno} {owner.id}.{name}()")
                if isinstance(inner, ast.Assign | ast.AugAssign):
                    for target in inner.targets if isinstance(inner, ast.Assign) else [inner.target]:
                        root = target
                        while isinstance(root, ast.Subscript | ast.Attribute):
                            root = root.value
                        augmented = isinstance(inner, ast.AugAssign) and isinstance(target, ast.Name)
                        indirect = isinstance(target, ast.Subscript | ast.Attribute)
                        if isinstance(root, ast.Name) and root.id in given and (indirect or augmented):
                            wrong.append(f"{module.place}:{inner.lineno} assigns into {root.id}")
    assert not wrong, "\n".join(wrong)
