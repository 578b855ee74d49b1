"""Law 8: nothing in the package can run code that came with a file."""

from __future__ import annotations

import ast

from laws.house import modules

CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.save",
    "pickle.load",
    "pickle.loads",
    "pickle.dump",
    "pickle.dumps",
    "yaml.load",
    "os.system",
    "os.popen",
    "importlib.import_module",
}
# A call from the list above that is allowed, with its reason.
ALLOWED = {
    "events/formats/__init__.py::importlib.import_module": "imports files found by listing its own folder",
    "registry.py::importlib.import_module": "imports files found by listing the package's own folders",
    "__init__.py::importlib.import_module": "imports the rooms of the public names, a constant table",
}


def test_no_call_can_run_foreign_code():
    wrong = []
    for module in modules():
        for line, name, _ in module.calls():
            if name in CALLS and f"{module.place}::{name}" not in ALLOWED:
                wrong.append(f"{module.place}:{line} {name}")
    assert not wrong, "\n".join(wrong)


def test_no_loader_that_can_run_code_is_imported():
    bad = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
    wrong = [f"{module.place}: {sorted(module.outside & bad)}" for module in modules() if module.outside & bad]
    assert not wrong, wrong


def test_no_keyword_opens_the_door():
    wrong = []
    for module in modules():
        for line, name, node in module.calls():
            for keyword in node.keywords:
                true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                if keyword.arg in {"allow_pickle", "shell"} and true:
                    wrong.append(f"{module.place}:{line} {name}({keyword.arg}=True)")
            if name in {"np.load", "numpy.load"}:
                said = any(k.arg == "allow_pickle" and getattr(k.value, "value", None) is False for k in node.keywords)
                if not said:
                    wrong.append(f"{module.place}:{line} {name} without allow_pickle=False")
    assert not wrong, "\n".join(wrong)


def test_no_assert_for_what_a_user_can_cause():
    wrong = [f"{m.place}:{node.lineno}" for m in modules() for node in ast.walk(m.tree) if isinstance(node, ast.Assert)]
    assert not wrong, wrong


def test_no_network():
    bad = {"requests", "urllib", "http", "httpx", "socket", "aiohttp", "ftplib", "smtplib"}
    wrong = [f"{module.place}: {sorted(module.outside & bad)}" for module in modules() if module.outside & bad]
    assert not wrong, wrong
