from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from perdure.errors import UsageError
from perdure.events import sequences
from perdure.events.data_settings import DataSettings
from perdure.events.synthetic import (
    CLASSES,
    KNOWN,
    TASKS,
    TWO,
    Truth,
    World,
    best_scores,
    forecast,
    noise_world,
    posterior,
    world,
)
from perdure.events.tasks import History, Split, Task, TaskData, compile_tasks


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> World:
    return world(tmp_path_factory.mktemp("world"), users=1500)


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> World:
    return noise_world(tmp_path_factory.mktemp("noise"), users=1500)


def compiled(made: World, folder: Path) -> dict[str, TaskData]:
    said = made.settings()
    events = sequences.prepare(DataSettings(**said["data"]), folder)
    tasks = [Task(**task) for task in said["tasks"]]
    return compile_tasks(events, tasks, History(**said["history"]), Split(**said["split"]))


def test_same_arguments_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        world(tmp_path / name, seed=seed, users=20)
    read = [(tmp_path / n / f).read_bytes() for n in "abc" for f in ("events.csv", "users.csv", "world.json")]
    assert read[:3] == read[3:6] and read[:2] != read[6:8]


def test_the_world_fits_its_settings(made, tmp_path):
    data = compiled(made, tmp_path / "store")
    assert list(data) == list(TASKS)
    row = {name: at for at, name in enumerate(made.user_ids)}
    watch = data["watch"]
    items, users = watch.labels.text(np.arange(len(watch.labels))), made.user_ids
    for user in (0, 7, 99):
        shown = [items[i - 2] for i in watch.history(user)]
        assert shown == [f"s{i:04}" for i in made.histories[row[users[user]]] if i >= 0]
    for name in TASKS[1:]:
        one = data[name]
        given = made.answers[name]
        text = one.labels.text(np.arange(len(one.labels)))
        words = CLASSES.get(name) or [f"t{i:04}" for i in range(60)]
        assert sum(one.notes["users"].values()) == (given[:, 0] >= 0).sum()
        for part in (one.train, one.valid, one.test):
            starts = part.answer_starts
            assert starts is not None and (part.answers >= 0).all()
            for at, user in enumerate(part.users[:50]):
                got = {text[a] for a in part.answers[starts[at] : starts[at + 1]]}
                assert got == {words[a] for a in given[user] if a >= 0}
        assert 0 < made.best(name, next(iter(made.oracle[name])), [users[u] for u in one.test.users]) <= 1


def test_no_item_twice_and_lengths_in_range(made):
    assert made.lengths.min() == 5 and made.lengths.max() == 40
    for history, length in zip(made.histories, made.lengths, strict=True):
        seen = history[history >= 0]
        assert len(seen) == length == len(set(seen.tolist()))
    for name, share in KNOWN.items():
        assert abs((made.answers[name][:, 0] >= 0).mean() - share) < 0.05
    assert abs((made.answers["buy"][:, 1] >= 0).mean() - TWO) < 0.05
    assert json.loads((made.folder / "world.json").read_text())["oracle"] == made.oracle


def tiny(seed: int) -> Truth:
    """Two types, four source items, five targets, at random."""
    rng = np.random.default_rng(seed)

    def table(*shape: int) -> np.ndarray:
        raw = rng.random(shape) + 0.05
        return raw / raw.sum(-1, keepdims=True)

    return Truth(
        table(2, 4), table(2, 4, 4), np.array([0, 1, 0, 1]), table(2, 2, 5), table(2, 2, 5), {"age": table(2, 3)}
    )


def chance(truth: Truth, z: int, path: tuple[int, ...]) -> float:
    """p(path | z), from the definition."""
    found, left = truth.first[z, path[0]], {0, 1, 2, 3} - {path[0]}
    for before, now in itertools.pairwise(path):
        found *= truth.chain[z, before, now] / sum(truth.chain[z, before, i] for i in left)
        left -= {now}
    return float(found)


def test_posterior_and_forecast_against_bayes_by_hand():
    truth = tiny(0)
    paths = list(itertools.permutations(range(4), 3))
    assert sum(chance(truth, 0, p) for p in paths) == pytest.approx(1)
    found = forecast(truth, np.array(paths), np.full(len(paths), 3))
    for at, path in enumerate(paths):
        both = np.array([chance(truth, z, path) for z in (0, 1)])
        knows = both / both.sum()
        assert posterior(truth, np.array([path]), np.array([3]))[0] == pytest.approx(knows)
        assert found["age"][at] == pytest.approx(knows @ truth.classes["age"])
        genre = truth.genre[path[-1]]
        assert found["like"][at] == pytest.approx(knows @ truth.like[:, genre])
        start = sum(chance(truth, z, path[:2]) for z in (0, 1))
        follows = [
            sum(chance(truth, z, (*path[:2], i)) for z in (0, 1)) / start if i not in path[:2] else 0 for i in range(4)
        ]
        assert found["watch"][at] == pytest.approx(follows)
        share = np.zeros(5)
        for z in (0, 1):
            q = truth.buy[z, genre]
            for x, y in itertools.permutations(range(5), 2):
                share[[x, y]] += knows[z] * TWO * q[x] * q[y] / (1 - q[x]) / (1 + 1 / np.log2(3))
            share += knows[z] * (1 - TWO) * q
        assert found["buy"][at] == pytest.approx(share)


def test_no_ranking_beats_the_oracle_in_expectation():
    truth = tiny(1)
    path, length = np.array([[2, 0, 1]]), np.array([3])
    q_of = posterior(truth, path, length)[0][:, None] * truth.buy[:, truth.genre[1]]  # (Z, Y) joint
    expected = {}
    for order in itertools.permutations(range(5)):
        gain = np.zeros(5)
        gain[list(order)] = 1 / np.log2(np.arange(2, 7))
        one = (q_of.sum(0) * gain).sum()
        two = sum(
            w[x] * w[y] / (w.sum() - w[x]) * (gain[x] + gain[y])
            for w in q_of
            for x, y in itertools.permutations(range(5), 2)
        )
        expected[order] = (1 - TWO) * one + TWO * two / (1 + 1 / np.log2(3))
    best = best_scores("buy", forecast(truth, path, length)["buy"])["ndcg@10"][0]
    assert best == pytest.approx(max(expected.values()))


def realised(made: World) -> dict[str, np.ndarray]:
    """The score each user's own answers give to the ranking by the true forecast."""
    found = {}
    table = forecast(made.truth, np.where(made.histories < 0, 0, made.histories), made.lengths)
    for task, values in table.items():
        answers = made.answers[task]
        if task in CLASSES:
            found[task] = np.where(answers[:, 0] >= 0, values.argmax(1) == answers[:, 0], np.nan)
            continue
        place = (-values).argsort(1, kind="stable").argsort(1)
        rank = np.take_along_axis(place, np.maximum(answers, 0), 1)
        gain = np.where((rank < 10) & (answers >= 0), 1 / np.log2(rank + 2), 0).sum(1)
        ideal = np.where((answers >= 0).sum(1) == 2, 1 + 1 / np.log2(3), 1)
        found[task] = np.where(answers[:, 0] >= 0, gain / ideal, np.nan)
    return found


@pytest.mark.parametrize("which", ["made", "noise"])
def test_the_true_model_reaches_the_oracle(which, request):
    one: World = request.getfixturevalue(which)
    for task, scores in realised(one).items():
        metric = "accuracy" if task in CLASSES else "ndcg@10"
        gap = np.nanmean(scores) - one.oracle[task][metric]
        noise = np.nanstd(scores) / np.sqrt((~np.isnan(scores)).sum())
        assert abs(gap) < 4 * noise, (task, gap, noise)


def test_there_is_something_to_learn_and_something_in_the_way(made, noise):
    """The oracle stands far above popularity in the one world, and on it in the other."""
    for one, least, most, tasks in ((made, 1.5, 99, TASKS), (noise, 0.85, 1.15, TASKS[1:])):
        for task in tasks:
            answers = one.answers[task]
            weight = 1 / np.where((answers >= 0).sum(1) == 2, 1 + 1 / np.log2(3), 1)[:, None] * (answers >= 0)
            share = np.bincount(answers[answers >= 0], weight[answers >= 0]) / (answers[:, 0] >= 0).sum()
            top = -np.sort(-share)
            popular = top[0] if task in CLASSES else (top[:10] / np.log2(np.arange(2, 2 + len(top[:10])))).sum()
            oracle = one.oracle[task]["accuracy" if task in CLASSES else "ndcg@10"]
            assert least < oracle / popular < most, (task, oracle, popular)


def test_a_history_tells_nothing_in_noise(noise):
    found = forecast(noise.truth, np.where(noise.histories < 0, 0, noise.histories), noise.lengths)
    for task in TASKS[1:]:
        assert np.ptp(found[task], axis=0).max() < 1e-12
    for user in (0, 5):
        left = noise.truth.first[0].copy()
        left[noise.histories[user, : noise.lengths[user] - 1]] = 0
        assert found["watch"][user] == pytest.approx(left / left.sum())  # popularity among what was not met


def test_ids_are_text_and_missing_is_empty(made):
    users = pl.read_csv(made.folder / "users.csv")
    assert users["user"][0] == "u0000" and users["age"].null_count() == (made.answers["age"] < 0).sum()


@pytest.mark.parametrize(
    "wrong",
    [{"users": 0}, {"shortest": 1}, {"longest": 200}, {"tastes": 5}, {"genres": 100}, {"chain": 1.5}, {"targets": 5}],
)
def test_wrong_numbers(tmp_path, wrong):
    with pytest.raises(UsageError):
        world(tmp_path, **wrong)
