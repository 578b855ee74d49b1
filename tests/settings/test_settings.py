"""Settings: every fault at once, origins, overrides, round trips, paths, and contradictions between sections."""

from __future__ import annotations

import tomllib
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Ge, Lt, MinLen
from cli.small import make
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perdure import registry
from perdure.errors import SettingsError
from perdure.settings import Settings, SettingsFaults, from_dict, load, schema_of, toml, words


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make(tmp_path_factory.mktemp("settings"))


def faults(recipe, *changes: str) -> dict[str, str]:
    """Key -> the whole line, of every fault these overrides cause."""
    with pytest.raises(SettingsFaults) as caught:
        load(recipe, changes, parts=registry)
    return {fault.key: str(fault) for fault in caught.value.faults}


def test_recipe_is_complete(recipe):
    settings = load(recipe, parts=registry)
    assert isinstance(settings, Settings)
    assert settings.train_for(0).epochs == 2 and settings.train_for(1).epochs == 1
    assert settings.spec()["encoder"]["width"] == 16
    assert settings.spec()["objective"]["name"] == "next_item"
    assert settings.data.path == str(recipe.parent / "world" / "events.csv")
    assert [task.name for task in settings.tasks] == ["watch", "buy", "gender"]


def test_a_key_of_train_that_stands_in_a_task_is_told_by_name(recipe):
    (line,) = faults(recipe, "tasks.buy.epochs=1").values()
    assert "unknown key of task buy; did you mean tasks.buy.train.epochs?" in line


def test_all_faults_at_once(recipe):
    changes = [
        "train.learnig_rate=0.1",
        'train.epochs="10"',
        "train.batch_size=true",
        "train.clip=nan",
        "encoder.dropout=1.0",
        "tuning.lenght=3",
        "tasks.1.name=con",
        "histori.share=1.0",
        "history.share=2.0",
        "data.path=[7]",
        "data.columns.usr=u",
    ]
    found = faults(recipe, *changes)
    assert set(found) == {
        "train.learnig_rate", "train.epochs", "train.batch_size", "train.clip", "encoder.dropout", "tuning.lenght",
        "tasks.1.name", "histori", "history", "data.path", "data.columns.usr",
    }  # fmt: skip
    assert "did you mean learning_rate?" in found["train.learnig_rate"]
    assert "did you mean length?" in found["tuning.lenght"]
    assert "did you mean history?" in found["histori"]
    assert "did you mean user?" in found["data.columns.usr"]
    assert "a whole number, 1 to 100000" in found["train.epochs"] and "'10'" in found["train.epochs"]
    assert "0 or more, below 1" in found["encoder.dropout"]
    assert "text or a list of text" in found["data.path"]


@pytest.mark.parametrize(
    ("change", "meant"), [("tuning.methd=pcl", "method"), ("encoder.nam=gru4rec", "name"), ("objective.nme=x", "name")]
)
def test_a_part_s_own_name_is_one_of_its_keys(recipe, change, meant):
    assert f"did you mean {meant}?" in faults(recipe, change)[change.split("=")[0]]
    assert f"known: {meant}, " in faults(recipe, f"{change.split('.')[0]}.zzz=1")[f"{change.split('.')[0]}.zzz"]


@pytest.mark.parametrize(
    "change",
    [
        "train.epochs=1e1",
        "train.epochs=true",
        'train.epochs="1"',
        "train.epochs=ten",
        "encoder.width=16.0",
        "encoder.width=16.",
        "run.seed=-1",
        "encoder.dropout='.2'",
        "encoder.dropout=nan",
        "encoder.dropout=NaN",
        "train.clip=inf",
        "train.clip=Infinity",
        "train.clip=0,5",
        "run.compile=1",
        "run.name=[1]",
        "evaluate.ks='1,10'",
        "evaluate.ks=1,ten",
        "evaluate.ks={a=1}",
    ],
)
def test_types_are_never_guessed(recipe, change):
    assert list(faults(recipe, change)) == [change.split("=")[0]]


def test_fault_is_told_to_machines(recipe):
    with pytest.raises(SettingsError) as caught:
        load(recipe, ["train.epochs=0", "train.clip=-1"], parts=registry)
    told = caught.value.as_dict()
    assert told["error"] == "SettingsError" and told["exit_code"] == 2
    assert [fault["key"] for fault in told["faults"]] == ["train.epochs", "train.clip"]  # type: ignore[index, union-attr]
    assert str(recipe) in str(caught.value)


def test_origin_of_every_value(recipe):
    origin = load(recipe, ["train.epochs=3", "tasks.buy.train.epochs=4"], parts=registry).origin
    assert origin["train.epochs"] == "override" and origin["tasks.1.train.epochs"] == "override"
    assert origin["train.batch_size"] == "recipe" and origin["data.columns.user"] == "recipe"
    assert origin["train.clip"] == "default" and origin["encoder.dropout"] == "default"
    assert origin["tuning.method"] == "recipe" and origin["objective.name"] == "default"


@pytest.mark.parametrize(
    ("change", "where", "value"),
    [
        ("run.name=a b", ("run", "name"), "a b"),
        ('run.name="a=b"', ("run", "name"), "a=b"),
        ("evaluate.ks=[5, 50]", ("evaluate", "ks"), [5, 50]),
        ("train.learning_rate=1", ("train", "learning_rate"), 1),
        ("encoder={name='gru4rec', width=8}", None, None),
    ],
)
def test_overrides(recipe, change, where, value):
    if where is None:
        assert "-s encoder={name='gru4rec', width=8}" in faults(recipe, change)
        return
    told = load(recipe, [change], parts=registry).as_dict()
    assert told[where[0]][where[1]] == value


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("encoder.dropout=.2", 0.2),
        ("encoder.dropout=0.", 0.0),
        ("train.clip=+5.", 5.0),
        ("train.learning_rate=1.e-3", 1e-3),
        ("train.learning_rate=1e-3", 1e-3),
        ("train.epochs=007", 7),
        ("tasks.buy.train.clip=.5", 0.5),
        ("train.betas=.8,.9", [0.8, 0.9]),
        ("train.betas=[.8, .9]", [0.8, 0.9]),
        ("evaluate.ks=1,10", [1, 10]),
        ("evaluate.ks=10", [10]),
        ("run.compile=False", False),
        ("run.name=007", "007"),
        ("run.name=.2", ".2"),
        ("run.name=2024", "2024"),
        ("run.name=1_0", "1_0"),
        ("run.name=True", "True"),
        ("data.path=7", "7"),
    ],
)
def test_an_override_is_read_as_a_person_types_it(recipe, change, value):
    settings = load(recipe, [change], parts=registry)
    told, key = settings.as_dict(), change.partition("=")[0].replace("tasks.buy", "tasks.1")
    for part in key.split("."):
        told = told[int(part) if isinstance(told, list) else part]
    assert told == value and type(told) is type(value)
    assert settings.origin[key] == "override"
    assert from_dict(settings.as_dict(), parts=registry, folder=recipe.parent).as_dict() == settings.as_dict()


def test_a_recipe_is_read_as_toml_reads_it(recipe):
    raw = tomllib.loads(recipe.read_text(encoding="utf-8"))
    for section, key, value in (("encoder", "dropout", ".2"), ("evaluate", "ks", "1,10"), ("run", "name", 7)):
        with pytest.raises(SettingsFaults) as caught:
            from_dict({**raw, section: {**raw.get(section, {}), key: value}}, parts=registry, folder=recipe.parent)
        assert [fault.key for fault in caught.value.faults] == [f"{section}.{key}"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        (["encoder.dropout=much"], "-s encoder.dropout=much"),
        (["tasks.buy.train.epochs=0"], "-s tasks.buy.train.epochs=0"),
        (["tasks.buy.train={epochs=0}"], "-s tasks.buy.train={epochs=0}"),
        (["history.share=2."], "RECIPE, -s history.share=2."),
        (["epochs=3"], ""),
        (["data.path=$PERDURE_DATE/x.csv"], "-s data.path=$PERDURE_DATE/x.csv"),
    ],
)
def test_a_fault_is_where_it_was_said(recipe, changes, where):
    with pytest.raises(SettingsFaults) as caught:
        load(recipe, changes, parts=registry)
    assert len(caught.value.faults) == 1 and caught.value.where == where.replace("RECIPE", str(recipe))


def test_another_method_leaves_all_options_of_the_recipe_s_behind(tmp_path):
    """Two methods may call two things alike: LoRA's rank is none of axes'."""
    recipe = make(tmp_path, users=40)
    recipe.write_text(recipe.read_text().replace('method = "pcl"\nlength = 3', 'method = "lora"\nrank = 5'))
    assert load(recipe, parts=registry).tuning.options["rank"] == 5
    other, own = load(recipe, ["tuning.method=axes"], parts=registry), registry.find("methods", "axes")().rank
    assert other.tuning.options.get("rank", own) == own != 5
    assert any("[tuning] rank of the recipe is of its own method and was left out" in note for note in other.notes)
    assert load(recipe, ["tuning.method=axes", "tuning.rank=7"], parts=registry).tuning.options["rank"] == 7
    assert load(recipe, ["tuning.method=lora"], parts=registry).tuning.options["rank"] == 5


def test_of_several_faults_each_tells_its_override(recipe):
    broken = tomllib.loads(recipe.read_text(encoding="utf-8")) | {"run": {"seed": -1}}
    with pytest.raises(SettingsFaults) as caught:
        from_dict(broken, ["encoder.dropout=much"], parts=registry, folder=recipe.parent, file="x.toml")
    said = {fault["key"]: fault["where"] for fault in caught.value.as_dict()["faults"]}  # type: ignore[union-attr]
    assert said == {"encoder.dropout": "-s encoder.dropout=much", "run.seed": ""} and caught.value.where == "x.toml"
    assert "(-s encoder.dropout=much)" in str(caught.value)


def test_override_of_a_task_by_name_and_place(recipe):
    settings = load(recipe, ["tasks.gender.train.epochs=9", "tasks.1.description=x"], parts=registry)
    assert settings.train_for(2).epochs == 9 and settings.tasks[1].description == "x"
    assert "one of watch, buy, gender" in faults(recipe, "tasks.sex.kind=item")["-s tasks.sex.kind"]
    assert faults(recipe, "tasks.0=1") and faults(recipe, "epochs=1") and faults(recipe, "train.epochs")


def test_what_numpy_holds_is_as_plain(recipe):
    raw = load(recipe, parts=registry).as_dict()
    held = {
        **raw,
        "evaluate": {"ks": np.array([5, 10])},
        "train": {"epochs": np.int64(3), "learning_rate": np.float32(0.5)},
    }
    plain = {**raw, "evaluate": {"ks": [5, 10]}, "train": {"epochs": 3, "learning_rate": 0.5}}
    told, expected = (from_dict(one, parts=registry).as_dict() for one in (held, plain))
    assert told == expected and type(told["train"]["epochs"]) is int


def test_date_becomes_text(recipe):
    changes = ["split.kind=time", "split.valid_from=2023-11-20", "split.test_from=2023-12-01T00:00:00"]
    told = load(recipe, changes, parts=registry).as_dict()["split"]
    assert told["valid_from"] == "2023-11-20" and told["test_from"] == "2023-12-01T00:00:00"


def test_a_list_that_is_too_short_and_a_text_of_another_form_are_told_as_found(recipe):
    with pytest.raises(SettingsError) as fault:
        load(recipe, ["train.betas=[0.9]", "run.device=tpu"], parts=registry)
    short, device = sorted(fault.value.faults, key=lambda one: one.key, reverse=True)
    assert "train.betas" in short.key and short.found == "found [0.9]" and "2 numbers" in short.expected
    assert device.found == "found 'tpu'" and device.expected == 'text such as "cpu", "cuda", "cuda:1"'


def test_round_trip(recipe):
    settings = load(recipe, ["train.betas=[0.8, 0.9]", "tasks.buy.train.clip=1.5"], parts=registry)
    again = from_dict(tomllib.loads(settings.to_toml()), parts=registry, folder=recipe.parent)
    assert again.as_dict() == settings.as_dict()
    assert again.train_for(1) == settings.train_for(1) and again.data == settings.data
    assert tomllib.loads(again.to_toml()) == settings.as_dict()


scalars = st.one_of(st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False), st.text())
tables = st.recursive(
    st.dictionaries(st.text(), st.one_of(scalars, st.lists(scalars)), max_size=4),
    lambda inside: st.dictionaries(st.text(), st.one_of(inside, st.lists(inside, min_size=1, max_size=3)), max_size=4),
    max_leaves=12,
)


@given(tables)
def test_what_is_rendered_reads_back(table):
    try:
        text = toml.render(table)
        text.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    assert tomllib.loads(text) == table


def test_paths(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path))
    data = load(recipe, ["data.path=$PERDURE_DATA/a/b.csv"], parts=registry).data
    assert data.path == str(tmp_path / "a" / "b.csv")
    assert load(recipe, ["data.path=/x/y.csv"], parts=registry).data.path == "/x/y.csv"
    several = load(recipe, ["data.path=['world/a.csv', '$PERDURE_DATA/b.csv']"], parts=registry).data.path
    assert several == [str(recipe.parent / "world" / "a.csv"), str(tmp_path / "b.csv")]
    monkeypatch.delenv("PERDURE_DATA")
    assert "PERDURE_DATA is not set" in faults(recipe, "data.path=$PERDURE_DATA/a/b.csv")["data.path"]
    assert "not expanded" in faults(recipe, "data.path=$HOME/a.csv")["data.path"]
    assert "not expanded" in faults(recipe, "data.path=~/a.csv")["data.path"]


def test_paths_are_told_as_written(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path))
    settings = load(recipe, ["data.path=$PERDURE_DATA/x.csv"], parts=registry)
    assert settings.as_dict()["data"]["path"] == "$PERDURE_DATA/x.csv"
    monkeypatch.delenv("PERDURE_DATA")
    assert from_dict(settings.as_dict(), parts=registry, expand=False).data.path == "$PERDURE_DATA/x.csv"


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        (["encoder.width=7", "encoder.heads=4"], "encoder", "not a multiple"),
        (["split.valid=0.0"], "tasks.0 (watch)", "validation users"),
        (["train.max_steps=5", "train.warmup_steps=5"], "tasks.0 (watch)", "not below max_steps"),
        (["split.valid=0.5", "split.test=0.6"], "split", "less than 1"),
        (["evaluate.metric=hr@7"], "evaluate.metric", "not measured"),
        (["evaluate.metric=best"], "evaluate.metric", "ndcg@k"),
        (["evaluate.metric=log_loss"], "evaluate.metric", "less is better"),
        (["evaluate.metric=log_loss"], "evaluate.metric", "macro_f1 or auc"),
        (["tasks.2.name=Watch"], "tasks.2.name", "is the name of tasks.0 already"),
        (["tasks.2.kind=item", "tasks.2.answer=item.genre"], "tasks.2.answer", "item attributes"),
        (["run.device=tpu"], "run.device", "tpu"),
        (["data.format=tabel"], "data.format", "did you mean table?"),
        (["encoder.name=sasrek"], "encoder.name", "did you mean sasrec?"),
        (["tuning.method=7"], "tuning.method", "known: "),
        (["objective.loss=hinge"], "objective.loss", '"softmax"'),
        (["encoder.name=bert4rec"], "objective.name", "next_item cannot train bert4rec"),
        (["objective.name=masked_item"], "objective.name", "masked_item cannot train sasrec"),
    ],
)
def test_contradictions(recipe, changes, key, text):
    assert text in faults(recipe, *changes)[key]


def test_user_attributes_without_a_table(tmp_path):
    recipe = make(tmp_path)
    raw = tomllib.loads(recipe.read_text())
    del raw["data"]["users"]
    with pytest.raises(SettingsError, match=r"data\.users"):
        from_dict(raw, parts=registry)


def test_without_tasks(recipe):
    raw = tomllib.loads(recipe.read_text())
    for tasks in ([], {}, "watch", [1]):
        with pytest.raises(SettingsError, match="tasks"):
            from_dict({**raw, "tasks": tasks}, parts=registry)


def test_sections_that_are_no_tables(recipe):
    raw = tomllib.loads(recipe.read_text())
    for section in raw:
        if section != "tasks":
            with pytest.raises(SettingsError, match=section):
                from_dict({**raw, section: 3}, parts=registry)


class Example:
    def __init__(
        self,
        n: int,
        *,
        rows: Annotated[int, Ge(1)] = 4,
        steps: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (1, 2),
        share: Annotated[float, Ge(0), Lt(1)] | None = None,
        kind: Literal["a", "b"] = "a",
        on: bool = False,
    ) -> None: ...


def test_schema_of_a_signature():
    model = schema_of(Example)
    assert model.model_validate({"steps": [3]}).model_dump()["steps"] == (3,)
    for wrong in [{"n": 1}, {"rows": 0}, {"rows": True}, {"steps": []}, {"steps": ["1"]}, {"share": 1.0}, {"on": 1}]:
        with pytest.raises(ValidationError):
            model.model_validate(wrong)
    schema = model.model_json_schema()
    told = {name: words(node, schema) for name, node in schema["properties"].items()}
    assert told == {
        "rows": "a whole number, 1 or more",
        "steps": "a list of whole numbers, 1 or more",
        "share": "a number, 0 or more, below 1",
        "kind": 'one of "a", "b"',
        "on": "true or false",
    }


@pytest.mark.parametrize("kind", ["encoders", "objectives", "methods"])
def test_every_part_has_a_schema_with_defaults(kind):
    for name in registry.names(kind):
        registry.trial(kind, name, schema_of(registry.find(kind, name)).model_validate({}).model_dump())


def test_metric_that_fits_no_task(tmp_path):
    ranked, classes = make(tmp_path / "a", ("watch", "buy")), make(tmp_path / "b", ("gender",))
    for metric in ("accuracy", "macro_f1"):
        assert "fits no task" in faults(ranked, f"evaluate.metric={metric}")["evaluate.metric"]
        assert not load(classes, [f"evaluate.metric={metric}"], parts=registry).notes
    assert "their kinds are one_of" in faults(classes, "evaluate.metric=recall@5")["evaluate.metric"]
    for one in (ranked, classes):
        assert not load(one, ["evaluate.metric=auc"], parts=registry).notes


def test_metric_that_fits_some_tasks_is_noted(recipe):
    assert "does not fit watch, buy" in load(recipe, ["evaluate.metric=macro_f1"], parts=registry).notes[0]
    assert "does not fit gender" in load(recipe, ["evaluate.metric=recall@5"], parts=registry).notes[0]
    assert not load(recipe, parts=registry).notes


def test_long_users_may_be_read_through_a_short_window(recipe):
    assert load(recipe, ["history.min_length=99"], parts=registry).encoder.options["max_length"] == 20
