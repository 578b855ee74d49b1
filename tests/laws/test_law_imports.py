"""Law 1: imports go down the floors, and there is no circle. Type-only and lazy imports count."""

from __future__ import annotations

from laws.house import FLOORS, NEIGHBOURS, Module, floor, modules


def test_every_room_has_a_floor():
    known = {room for rooms in FLOORS for room in rooms}
    assert {module.room for module in modules() if module.room} <= known


def test_imports_go_down():
    wrong = []
    for module in modules():
        if not module.room:
            continue
        for target in sorted(module.imports):
            room = target.split(".")[1] if "." in target else ""
            if not room or room == module.room:  # `from perdure import __version__` and the room's own files
                continue
            down = floor(room) < floor(module.room)
            if not down and (module.room, room) not in NEIGHBOURS:
                wrong.append(f"{module.place} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_circle():
    graph = {module.name: module.imports for module in modules() if module.room}  # the face is lazy by a law of its own
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        assert name not in path, "circle: " + " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            walk(target, [*path, name])
        done.add(name)

    for name in sorted(graph):
        walk(name, [])


def test_the_face_is_lazy():
    """`perdure/__init__.py` names its rooms only inside functions (or for type checkers)."""
    import ast

    from laws.house import PACKAGE

    face = Module(PACKAGE / "__init__.py")
    eager = [node for node in face.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [getattr(node, "module", None) or node.names[0].name for node in eager]
    assert all(name == "__future__" or name in {"typing", "importlib"} for name in names), names


OPTIONAL = {"jinja2": "report", "altair": "report", "vl_convert": "report", "tensorboard": "training"}
BANNED = {
    "pandas",
    "pyarrow",
    "sklearn",
    "scipy",
    "matplotlib",
    "requests",
    "pickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
}


def test_optional_packages_stay_in_their_room():
    wrong = []
    for module in modules():
        for name in sorted(module.outside):
            if name in BANNED or (name in OPTIONAL and module.room != OPTIONAL[name]):
                wrong.append(f"{module.place} imports {name}")
    assert not wrong, "\n".join(wrong)
