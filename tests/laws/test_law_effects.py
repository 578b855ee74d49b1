"""Laws 4 and 5: side effects only in marked files; one place steps the optimiser, one place calls safetensors."""

from __future__ import annotations

import ast

from laws.house import modules

# A file may touch the disk when its first docstring says so with one of these words.
MARKS = ("[reads]", "[writes]", "[reads, writes]")
ABOVE = {"cli", "api", "registry", "report"}  # from the report up a room may print or read the clock
CLOCK = {"training/"}  # a run's log carries times and its checkpoints come by the minute

DISK_CALLS = {
    "open",
    "write_text",
    "write_bytes",
    "read_text",
    "read_bytes",
    "mkdir",
    "makedirs",
    "unlink",
    "rmtree",
    "rmdir",
    "copyfile",
    "copytree",
    "mkdtemp",
    "mkstemp",
    "TemporaryDirectory",
    "NamedTemporaryFile",
    "fsync",
    "read_csv",
    "scan_csv",
    "read_parquet",
    "scan_parquet",
    "read_ndjson",
    "scan_ndjson",
    "write_parquet",
    "sink_parquet",
    "write_csv",
    "sink_csv",
    "save_file",
    "load_file",
    "safe_open",
    "memmap",
    "open_memmap",
    "iterdir",
    "glob",
    "rglob",
}
CLOCK_CALLS = {
    "time.time",
    "time.perf_counter",
    "time.monotonic",
    "time.process_time",
    "datetime.now",
    "date.today",
    "datetime.datetime.now",
    "perf_counter",
    "monotonic",
}
# A file whose draw comes from the global generator, with its reason.
GLOBAL_DRAWS = {
    "functional/dropout.py": "dropout, as PyTorch's own: the loop seeds the global generator and checkpoints keep it"
}
DRAWS = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal"}  # torch.X without generator=
DRAWS_IN_PLACE = {
    "normal_",
    "uniform_",
    "random_",
    "bernoulli_",
    "trunc_normal_",
    "exponential_",
    "geometric_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
}
GLOBAL = {"torch.manual_seed", "torch.seed", "torch.set_rng_state", "torch.random.manual_seed", "random.seed"}


def test_only_marked_files_touch_the_disk():
    wrong = []
    for module in modules():
        if module.room == "cli" or any(mark in module.docstring for mark in MARKS):
            continue
        for line, name, node in module.calls():
            last = name.rsplit(".", 1)[-1]
            numpy = name in {"np.load", "np.save", "numpy.load", "numpy.save", "os.replace", "os.open"}
            if (last in DISK_CALLS or numpy) and not isinstance(node.func, ast.Call):
                wrong.append(f"{module.place}:{line} calls {name}, and its docstring carries no mark")
    assert not wrong, "\n".join(wrong)


def test_no_file_is_written_through_a_map():
    """On a full disk the system ends a process that does, without a word."""
    wrong = []
    for module in modules():
        for line, name, node in module.calls():
            told = [getattr(value, "value", None) for value in (*node.args, *(word.value for word in node.keywords))]
            if name.rsplit(".", 1)[-1] in ("memmap", "open_memmap", "load") and {"w+", "r+"} & {*map(str, told)}:
                wrong.append(f"{module.place}:{line} calls {name}")
    assert not wrong, "\n".join(wrong)


def test_nothing_below_the_report_prints():
    wrong = []
    for module in modules():
        if module.room in ABOVE:
            continue
        wrong += [f"{module.place}:{line}" for line, name, _ in module.calls() if name in {"print", "input"}]
    assert not wrong, wrong


def test_nothing_below_the_report_reads_the_clock():
    wrong = []
    for module in modules():
        if module.room in ABOVE or any(module.place.startswith(place) for place in CLOCK):
            continue
        wrong += [f"{module.place}:{line} {name}" for line, name, _ in module.calls() if name in CLOCK_CALLS]
    assert not wrong, wrong


def test_nobody_draws_from_a_global_generator():
    """Every draw that the code writes down is given its generator."""
    wrong = []
    for module in modules():
        if "random" in module.outside:
            wrong.append(f"{module.place} imports random")
        for line, name, node in module.calls():
            head, _, last = name.rpartition(".")
            given = any(keyword.arg == "generator" for keyword in node.keywords)
            torch_draw = head == "torch" and (last in DRAWS or last in {"rand_like", "randn_like", "randint_like"})
            if (torch_draw or last in DRAWS_IN_PLACE) and not given and module.place not in GLOBAL_DRAWS:
                wrong.append(f"{module.place}:{line} {name} without generator=")
            if head in {"np.random", "numpy.random"} and last not in {
                "default_rng",
                "Generator",
                "SeedSequence",
                "PCG64",
            }:
                wrong.append(f"{module.place}:{line} {name}")
            if name in {"np.random.default_rng", "numpy.random.default_rng"} and not (node.args or node.keywords):
                wrong.append(f"{module.place}:{line} {name} without a seed")
            if name in GLOBAL and module.room != "training":
                wrong.append(f"{module.place}:{line} {name}")
    assert not wrong, "\n".join(wrong)


def test_one_place_steps_the_optimiser():
    places = {
        module.place
        for module in modules()
        for _, name, node in module.calls()
        if name.endswith(".step") and ("optim" in name or name in {"fabric.step", "self.fabric.step"})
    }
    assert len(places) <= 1, places
    assert places <= {"training/loop.py"}, places


def test_few_places_call_safetensors():
    places = {module.place for module in modules() if "safetensors" in module.outside}
    assert len(places) <= 1, places


def test_nothing_edits_the_interpreter():
    """No import path, working directory, environment, warning filter or default type is changed by the library."""
    bad = {
        "sys.path.append",
        "sys.path.insert",
        "os.chdir",
        "os.putenv",
        "torch.set_default_dtype",
        "warnings.filterwarnings",
        "warnings.simplefilter",
    }
    wrong = []
    for module in modules():
        if module.room == "cli":
            continue
        inside = {
            id(call)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.With) and "catch_warnings" in ast.unparse(node).partition(":")[0]
            for call in ast.walk(node)
            if isinstance(call, ast.Call)
        }
        wrong += [
            f"{module.place}:{line} {name}" for line, name, n in module.calls() if name in bad and id(n) not in inside
        ]
    assert not wrong, wrong
