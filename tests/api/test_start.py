"""What a run begins with: the backbone of another model, trained on (`pretrain.start`)."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from cli.small import make
from model import crafted

import perdure
from perdure import registry
from perdure.api import opened
from perdure.errors import ModelError, SettingsError
from perdure.events.sequences import load as events_in
from perdure.model import store
from perdure.tuning.ewc import EWC

BERT = ["encoder.name=bert4rec", "encoder.width=16", "tuning.method=frozen"]
DUPN = ["encoder.name=dupn", "encoder.gaps=[5.0]"]
STAY = ["pretrain.learning_rate=1e-12", "pretrain.epochs=1"]  # what is trained stays where it begins


def weights(folder: str) -> dict[str, torch.Tensor]:
    return store.load(folder, registry.find).backbone.state_dict()


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(recipe, run) of one task learned from masked items, with dropout."""
    folder = tmp_path_factory.mktemp("first")
    recipe = make(folder, ("watch", "gender"))
    options = [*BERT, "objective.name=masked_item", "encoder.dropout=0.3"]
    return recipe, perdure.learn(recipe, folder / "run", overrides=options)


@pytest.mark.parametrize("readout", ["attention", "cls"])
def test_another_objective_goes_on_from_the_weights(first, tmp_path, readout):
    """The readout is new, and so drawn; all else begins as it was learned."""
    recipe, run = first
    options = [*BERT, *STAY, "objective.name=adaptssr", f"encoder.readout={readout}", f"pretrain.start={run.model}"]
    then = perdure.learn(recipe, tmp_path / "then", overrides=options)
    before, after = weights(run.model), weights(then.model)
    assert set(after) - set(before) == {name for name in after if "readout" in name}
    assert len(after) > len(before)
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-9)
    assert then.metrics["watch"] == "agreement"
    fresh = perdure.learn(recipe, tmp_path / "fresh", overrides=options[:-1])
    assert not torch.equal(weights(fresh.model)["layers.input.items"], before["layers.input.items"])


def test_it_is_trained_on_and_resumes_as_the_same_run(first, tmp_path):
    recipe, run = first
    options = [*BERT, "objective.name=masked_item", f"pretrain.start={run.model}"]
    then = perdure.learn(recipe, tmp_path / "then", overrides=options)
    assert not torch.equal(weights(then.model)["layers.input.items"], weights(run.model)["layers.input.items"])
    assert perdure.learn(recipe, tmp_path / "then", overrides=options, resume="must").matrix == then.matrix
    with pytest.raises(SettingsError, match="start"):
        perdure.learn(recipe, tmp_path / "then", overrides=options[:-1], resume="must")


@pytest.mark.parametrize("key", ["start", "model"])
def test_a_model_that_is_not_there_is_told_by_its_key(first, key):
    with pytest.raises(ModelError, match="no model in") as fault:
        perdure.check(first[0], overrides=[*BERT, "objective.name=masked_item", f"pretrain.{key}=nowhere"])
    assert fault.value.where == f"pretrain.{key}"


@pytest.mark.parametrize("change", [["encoder.width=8"], ["encoder.blocks=2"], ["encoder.name=sasrec"]])
def test_a_backbone_of_another_shape_is_refused(first, tmp_path, change):
    recipe, run = first
    objective = "next_item" if "sasrec" in change[0] else "masked_item"
    options = [*BERT, *change, f"objective.name={objective}", f"pretrain.start={run.model}"]
    with pytest.raises(SettingsError, match="its encoder is"):
        perdure.learn(recipe, tmp_path / "no", overrides=options)


def test_a_log_that_has_grown_begins_with_the_vectors_of_items_known(first, tmp_path):
    """Items are found by their ids, wherever they stand; new ones are drawn, those that are gone are left behind."""
    _, run = first
    recipe = make(tmp_path, ("watch", "gender"))
    events = (tmp_path / "world" / "events.csv").read_text().replace(",s0007,", ",s0007b,")  # one goes, another comes
    (tmp_path / "world" / "events.csv").write_text(events + "u0000,a0001,1702046499,watch,source,5\n")
    options = [*BERT, *STAY, "objective.name=masked_item", f"pretrain.start={run.model}"]
    then = perdure.learn(recipe, tmp_path / "then", overrides=options)
    old, new = (store.load(folder, registry.find) for folder in (run.model, then.model))
    known = [item for item in new.item_ids.series if item in set(old.item_ids.series)]
    assert set(new.item_ids.series) - set(known) == {"a0001", "s0007b"} and len(known) == len(old.item_ids) - 1
    before, after = (model.backbone.item_table[model.item_ids.rows(known)] for model in (old, new))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)
    fresh = new.backbone.item_table[new.item_ids.rows(["a0001", "s0007b"])]
    assert 0 < fresh.std() < 0.03
    (note,) = [note for note in then.notes if "begun as drawn" in note]
    assert "begun as drawn: 2;" in note and "gone: 1" in note
    assert perdure.learn(recipe, tmp_path / "then", overrides=options, resume="must").matrix == then.matrix


@pytest.mark.parametrize("key", ["start", "model"])
def test_a_model_of_another_log_with_the_same_items_is_told_as_such(first, tmp_path, key):
    """A user more, and everyone is divided anew."""
    told, (recipe, run) = "learned from another log, and maybe from users who are held out here", first
    options = [*BERT, "objective.name=masked_item", "encoder.dropout=0.3", f"pretrain.{key}={run.model}"]
    assert not any(told in note for note in perdure.check(recipe, overrides=options).notes)
    grown = make(tmp_path, ("watch", "gender"))
    with (tmp_path / "world" / "events.csv").open("a", encoding="utf-8") as log:
        log.write("u9999,s0001,1702046499,watch,source,5\nu9999,s0002,1702046500,watch,source,5\n")
    assert [told in note for note in perdure.check(grown, overrides=options).notes].count(True) == 1


def test_users_drawn_by_their_ids_are_known_to_be_apart(tmp_path):
    """A model of the log before it grew has learned from users who train here too, and nothing need be noted; of one
    that went on from another model its own run tells."""
    by_id, told = (
        ["split.by_id=true", "tuning.method=frozen", "pretrain.epochs=1"],
        "maybe from users who are held out here",
    )
    recipe = make(tmp_path, ("watch",))
    run = perdure.learn(recipe, tmp_path / "run", overrides=by_id)
    other = perdure.learn(recipe, tmp_path / "other", overrides=[*by_id, "split.seed=1"])
    with (tmp_path / "world" / "events.csv").open("a", encoding="utf-8") as log:
        log.write("a,s0001,1702046499,watch,source,5\na,s0002,1702046500,watch,source,5\n")
    then = perdure.learn(recipe, tmp_path / "then", overrides=[*by_id, f"pretrain.start={run.model}"])
    before, after = (set(_tested(folder)) for folder in (run, then))
    assert before <= after <= {*before, "a"} and not any(told in note for note in then.notes)
    notes = perdure.check(recipe, overrides=[*by_id, f"pretrain.start={other.model}"]).notes
    assert any(told in note for note in notes)
    with (tmp_path / "world" / "events.csv").open("a", encoding="utf-8") as log:
        log.write("b,s0001,1702046499,watch,source,5\nb,s0002,1702046500,watch,source,5\n")
    notes = perdure.check(recipe, overrides=[*by_id, f"pretrain.start={then.model}"]).notes
    assert any("went on from another model" in note for note in notes) and not any(told in note for note in notes)


def _tested(run: perdure.Run) -> list[str]:
    """The users that a run tested."""
    events = events_in(Path(run.model).parent / "store")
    watch = opened.compiled(opened.load(Path(run.model)), events, ["watch"])["watch"]
    return events.user_ids.text(watch.test.users)


def test_a_backbone_of_other_items_altogether_is_refused(first, tmp_path):
    recipe = make(tmp_path, ("watch",))
    events = (tmp_path / "world" / "events.csv").read_text().replace(",s0", ",other0").replace(",t0", ",another0")
    (tmp_path / "world" / "events.csv").write_text(events)
    options = [*BERT, "objective.name=masked_item", f"pretrain.start={first[1].model}"]
    with pytest.raises(ModelError, match="reads other items") as fault:
        perdure.learn(recipe, tmp_path / "no", overrides=options)
    assert fault.value.fix == "learn anew"


@pytest.mark.parametrize("key", ["start", "model"])
@pytest.mark.parametrize("verb", [perdure.learn, perdure.check])
def test_a_backbone_that_met_users_held_out_here_is_refused(first, tmp_path, key, verb):
    recipe, run = first
    options = [*BERT, "objective.name=masked_item", "encoder.dropout=0.3", f"pretrain.{key}={run.model}"]
    out = (tmp_path / "no",) if verb is perdure.learn else ()
    with pytest.raises(SettingsError, match=r"learned from this log with another \[split\]"):
        verb(recipe, *out, overrides=[*options, "split.seed=5"])
    if verb is perdure.check:
        assert verb(recipe, overrides=[*options, "split.kind=user-each"]).tasks
        with pytest.raises(ModelError, match="no model in"):
            verb(recipe, overrides=[*options[:-1], f"pretrain.{key}={tmp_path / 'nowhere'}"])


def test_a_first_task_with_parts_is_taken_over_by_its_own_objective_only(tmp_path):
    recipe = make(tmp_path, ("watch", "gender"))
    ours = ["tuning.method=frozen", "objective.name=ptum", "objective.places=user"]
    run = perdure.learn(recipe, tmp_path / "run", overrides=ours)
    taken = perdure.learn(recipe, tmp_path / "taken", overrides=[*ours, f"pretrain.model={run.model}"])
    assert taken.matrix[0] == run.matrix[0]
    with pytest.raises(SettingsError, match="was learned by"):
        perdure.learn(recipe, tmp_path / "no", overrides=[ours[0], f"pretrain.model={run.model}"])


def test_what_a_method_remembers_of_a_task_taken_over_is_of_the_objective_as_prepared(tmp_path, monkeypatch):
    """Negatives by popularity know what is popular when EWC takes its Fisher of the first task."""
    recipe = make(tmp_path, ("watch", "gender"))
    ours = ["objective.loss=sampled", "objective.alpha=1.0"]
    run = perdure.learn(recipe, tmp_path / "run", overrides=[*ours, "tuning.method=frozen"])
    remember, drawn = EWC.remember, []

    def watched(self, model, *told):
        drawn.append(model.objective.sampler.log_q.unique().numel())
        return remember(self, model, *told)

    monkeypatch.setattr(EWC, "remember", watched)
    options = [*ours, "tuning.method=ewc", f"pretrain.model={run.model}"]
    perdure.learn(recipe, tmp_path / "taken", overrides=options)
    assert len(drawn) == 2 and min(drawn) > 1


def test_a_model_from_before_an_option_of_its_encoder_is_taken_over(tmp_path):
    """What its folder does not tell has its default; what it tells must be as here."""
    recipe = make(tmp_path, ("watch", "gender"))
    run = perdure.learn(recipe, tmp_path / "run", overrides=["tuning.method=frozen"])
    crafted.edit(Path(run.model), lambda manifest: manifest["spec"]["encoder"].pop("positions"))
    options = ["tuning.method=frozen", f"pretrain.model={run.model}"]
    assert perdure.learn(recipe, tmp_path / "taken", overrides=options).matrix[0] == run.matrix[0]
    with pytest.raises(SettingsError, match=r"its encoder is .*'positions': 'first'") as fault:
        perdure.learn(recipe, tmp_path / "no", overrides=[*options, "encoder.positions=last"])
    assert fault.value.where


def test_a_log_that_has_grown_is_told_as_such(first, tmp_path):
    _, run = first
    recipe = make(tmp_path, ("watch", "gender"))
    with (tmp_path / "world" / "events.csv").open("a", encoding="utf-8") as log:
        log.write("u0000,s9999,1702046499,watch,source,5\nu0001,s9998,1702046499,watch,source,5\n")
    changes = [*BERT, "objective.name=masked_item", f"pretrain.model={run.model}"]
    with pytest.raises(ModelError, match="2 of the log are new to it, such as 's9998'") as error:
        perdure.check(recipe, overrides=changes)
    assert "of its own" not in error.value.found and error.value.fix.startswith(
        "pretrain.start takes a model of other items"
    )


def test_a_log_that_has_grown_begins_with_what_was_learned_of_its_values(tmp_path):
    """Behaviours, an attribute of items and their vectors: each value by its text, wherever it stands now."""
    recipe = make(tmp_path, ("watch",))
    ids = [f"s{n:04d}" for n in range(60)]
    pl.DataFrame({"id": ids, "kind": ["b", "c"] * 30}).write_csv(tmp_path / "items.csv")
    read = ["tuning.method=frozen", 'input.events=["behaviour"]', 'input.items=["kind"]', "input.gaps=4"]
    read.append(f'data.items_table={{path = "{tmp_path}/items.csv", id = "id"}}')
    run = perdure.learn(recipe, tmp_path / "run", overrides=read)
    log = tmp_path / "world" / "events.csv"
    log.write_text(f"{log.read_text()}u0000,s9999,1702046499,a gift,source,5\n", encoding="utf-8")
    kinds = pl.DataFrame({"id": [*ids, "s9999"], "kind": [*["c", "b"] * 30, "a"]})  # others, and one more
    kinds.write_csv(tmp_path / "items.csv")
    with pytest.raises(ModelError, match="new to it, such as 's9999'"):
        perdure.check(recipe, overrides=[*read, f"pretrain.model={run.model}"])
    options = [*read, "pretrain.learning_rate=1e-12", "pretrain.epochs=1", f"pretrain.start={run.model}"]
    then = perdure.learn(recipe, tmp_path / "then", overrides=options)
    old, new = (store.load(folder, registry.find) for folder in (run.model, then.model))
    assert [len(m.marks.events["behaviour"]) for m in (old, new)] == [3, 4]
    parts = [model.backbone.layers["input"].features for model in (old, new)]
    before = {value: parts[0].table[row] for value, row in _rows(old)}
    after = {value: parts[1].table[row] for value, row in _rows(new)}
    assert set(after) - set(before) == {"a gift", "a"} and len(before) == 3 + 4 + 2
    for value, vector in before.items():
        torch.testing.assert_close(after[value], vector, rtol=0, atol=1e-9)
    assert all(0 < after[value].detach().std() < 0.3 for value in ("a gift", "a"))
    told = dict(zip(new.item_ids.series, parts[1].attributes[2:, 0].tolist(), strict=True))
    assert [told["s0000"], told["s0001"], told["s9999"]] == [3, 2, 1]  # as the items are now


def _rows(model):
    """Each value that a model reads of events and items, and its row in the table."""
    marks, begin = model.marks, 0
    for values in (marks.events["behaviour"].series, [f"gap {n}" for n in range(1, 5)], marks.items["kind"].series):
        yield from ((value, begin + row) for row, value in enumerate(values, 1))
        begin += len(values) + 1


def test_other_values_are_refused_where_nothing_is_learned_on(tmp_path):
    recipe = make(tmp_path, ("watch",))
    read = ["tuning.method=frozen", 'input.events=["behaviour"]', "pretrain.epochs=1"]
    run = perdure.learn(recipe, tmp_path / "run", overrides=read)
    with (tmp_path / "world" / "events.csv").open("a", encoding="utf-8") as log:
        log.write("u0000,s0001,1702046499,gift,source,5\n")
    with pytest.raises(ModelError, match="the model reads behaviour") as error:
        perdure.check(recipe, overrides=[*read, f"pretrain.model={run.model}"])
    assert error.value.fix.startswith("pretrain.start takes a model of other values")
    for key in ("start", "model"):
        with pytest.raises(ModelError, match="the model reads behaviour") as error:
            perdure.check(recipe, overrides=[read[0], f"pretrain.{key}={run.model}"])
        assert error.value.fix == "give [input] as the model had it"


def test_an_encoder_that_reads_values_in_its_own_way_keeps_what_it_learned_of_them(tmp_path):
    """DUPN's gates and attention read behaviours, its event vectors the attributes of items."""
    recipe = make(tmp_path, ("watch",))
    pl.DataFrame({"id": ["s0000", "s0001"], "kind": ["b", "c"]}).write_csv(tmp_path / "items.csv")
    read = ["tuning.method=frozen", *DUPN, 'input.events=["behaviour"]']
    read += ['input.items=["kind"]', f'data.items_table={{path = "{tmp_path}/items.csv", id = "id"}}']
    run = perdure.learn(recipe, tmp_path / "run", overrides=[*read, "pretrain.epochs=1"])
    log = tmp_path / "world" / "events.csv"
    log.write_text(f"{log.read_text()}u0000,s9999,1702046499,a gift,source,5\n", encoding="utf-8")
    options = [*read, *STAY, f"pretrain.start={run.model}"]
    then = perdure.learn(recipe, tmp_path / "then", overrides=options)
    old, new = (store.load(folder, registry.find) for folder in (run.model, then.model))
    texts = [list(model.marks.events["behaviour"].series) for model in (old, new)]
    assert texts[1] == ["a gift", *texts[0]]
    for site in ("lstm", "attention"):
        before, after = (model.backbone.layers[site].property for model in (old, new))  # (..., 3 + 1 + behaviours)
        kept = [0, 1, 2, 3, *range(5, after.shape[1])]
        torch.testing.assert_close(after[:, kept], before, rtol=0, atol=1e-9)
        assert bool(after[:, 4].any())
    tables = [model.backbone.layers["input"].features.table for model in (old, new)]
    torch.testing.assert_close(tables[1], tables[0], rtol=0, atol=1e-9)
    for change in ("encoder.inner=4", "encoder.width=8", "encoder.gaps=[]"):
        with pytest.raises(SettingsError, match="its encoder is"):
            perdure.check(recipe, overrides=[*options, change])


def test_an_encoder_that_clusters_items_begins_with_the_same_items_only(tmp_path):
    recipe = make(tmp_path, ("watch",))
    vectors = pl.DataFrame({"item": [f"s{n:04d}" for n in range(40)], "vector": [[float(n), 1.0] for n in range(40)]})
    vectors.write_parquet(tmp_path / "items.parquet")
    read = ["tuning.method=frozen", "objective.name=lurm", "encoder.name=smen", "encoder.interests=4"]
    read += [f'input.vectors="{tmp_path}/items.parquet"', *STAY, "run.seed=1"]
    run = perdure.learn(recipe, tmp_path / "run", overrides=read)
    options = [*read[:-1], f"pretrain.start={run.model}", "run.seed=2"]  # which would cluster in another way
    then = perdure.learn(recipe, tmp_path / "then", overrides=options)
    before, after = weights(run.model), weights(then.model)
    torch.testing.assert_close(after["layers.input.items"], before["layers.input.items"], rtol=0, atol=1e-9)
    assert torch.equal(after["interest_of"], before["interest_of"]) and before["interest_of"].unique().numel() > 4
    anew = weights(perdure.learn(recipe, tmp_path / "anew", overrides=[*read[:-1], "run.seed=2"]).model)
    assert not torch.equal(anew["interest_of"], before["interest_of"])
    with (tmp_path / "world" / "events.csv").open("a", encoding="utf-8") as log:
        log.write("u0000,s9999,1702046499,watch,source,5\n")
    with pytest.raises(ModelError, match="new to it, such as 's9999'"):
        perdure.check(recipe, overrides=options)
