"""Worlds whose right answers are known: a log on disk, and the best score any model can reach on it.   [writes]

A user has a hidden type z = (a, b), taste a and habit b, uniform over tastes x habits. There are S source items and Y
target items in G genres; item number j has genre g(j) = j mod G and is the n(j) = j // G th of its genre. The formulas,
with c = chain, [..] = 1 where true else 0, and "prop. to" within what the bar gives:

    genres taste a likes    F_a(g)       = .9 [g in own_a] / |own_a| + .1 / G,    own_a: those with g tastes // G = a
    genre after genre       M_a(g' | g)  = c [g' = g + 1 mod G] + (1 - c) F_a(g')
    items of a genre        W_b(j | g)   prop. to (6 [n(j) mod habits = b] + [else]) / sqrt(1 + n(j) // habits)
    next source item        P_z(j | i)   = M_a(g(j) | g(i)) W_b(j | g(j));   of the first: F_a in place of M_a
    targets of a genre      R(y | g)     prop. to 2^-n(y);     habit b's: H_b(y)  prop. to 2^-n(y) [y mod habits = b]

    history  x_1 .. x_n     x_t ~ P_z(. | x_t-1) among the items not met before;  n uniform in shortest .. longest
    buy      one (.6) or two (.4) different targets of   .6 R(y | g(x_n)) + .3 F_a(g(y)) R(y | g(y)) + .1 / Y
    like     one target item (60% of the users) of       .55 R(y | g(x_n) + 1 mod G) + .35 H_b(y) + .1 / Y
    age      a with probability .8, else another; known of 90%
    gender   2a // tastes with probability .85, else the other; known of 90%
    status   b with probability .8, else another; known of 70%

Lengths, the number bought and what is unknown do not depend on z. A model may see the history x (for `watch` without
its last item). With h the events seen and m_t,z the mass under P_z(. | x_t-1) of the items met before t,

    p(z | h)  prop. to  p(z) P_z(x_1) prod_t>1 P_z(x_t | x_t-1) / (1 - m_t,z)
    p(y | h)  =  sum_z p(z | h) p(y | z, x_n)

A score that sums over ranks a falling discount times the share of the item there is expected to be highest when items
are ranked by expected share (NDCG, HR, MRR of one answer: its probability; NDCG@k>1 of one or two answers: 1 / ideal
DCG of their number). Accuracy is, for the likeliest class; log loss is lowest for p(y | h) itself. The oracle is that
expectation, exact for each user and averaged over the users who have the answer. No model has a higher expectation;
on a sample of users its score scatters. No item comes twice, so leaving out seen items changes nothing.

`noise_world` has one type and answers that do not depend on the history: popularity prop. to 1 / sqrt(1 + number).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from perdure.errors import UsageError

KS = (1, 5, 10, 20)
TASKS = ("watch", "buy", "like", "age", "gender", "status")
CLASSES = {"age": ["18-24", "25-34", "35-44", "45-"], "gender": ["f", "m"], "status": ["alone", "couple", "family"]}
KNOWN = {"like": 0.6, "age": 0.9, "gender": 0.9, "status": 0.7}  # shares of users who have the answer
TWO = 0.4  # share of buyers with two answers


@dataclass(frozen=True)
class Truth:
    """The probabilities a world is drawn from.

    Attributes:
        first: (Z, S) first source item of each type.
        chain: (Z, S, S) next source item after each, before leaving out items already met.
        genre: (S,) genre of each source item, 0 to G - 1.
        buy, like: (Z, G, Y) target item by type and genre of the last source item.
        classes: attribute -> (Z, C).
    """

    first: np.ndarray
    chain: np.ndarray
    genre: np.ndarray
    buy: np.ndarray
    like: np.ndarray
    classes: dict[str, np.ndarray]


@dataclass(frozen=True)
class World:
    """A log on disk and what can be known about it.

    Attributes:
        folder: holds events.csv, users.csv, world.json.
        truth: the probabilities.
        types: (U,) the hidden type of each user.
        histories: (U, longest) source item numbers, -1 behind the end.
        lengths: (U,).
        user_ids: (U,) text ids.
        answers: task -> (U, m) answer numbers, -1 where there is none (watch: source items, buy, like: target items).
        per_user: task -> metric -> (U,) best expected score, NaN where a user has no answer.
        oracle: task -> metric -> its mean over users.
    """

    folder: Path
    truth: Truth
    types: np.ndarray
    histories: np.ndarray
    lengths: np.ndarray
    user_ids: list[str]
    answers: dict[str, np.ndarray]
    per_user: dict[str, dict[str, np.ndarray]]
    oracle: dict[str, dict[str, float]]

    def best(self, task: str, metric: str, users: Sequence[str]) -> float:
        """The oracle over these users only, such as those of a test set."""
        row = {name: at for at, name in enumerate(self.user_ids)}
        return float(np.nanmean(self.per_user[task][metric][[row[u] for u in users]]))

    def settings(self) -> dict:
        """The sections [data], [history], [split] and [[tasks]] that fit this world."""
        columns = {name: name for name in ("user", "item", "time", "behaviour", "domain", "value")}
        bought, liked = ("domain = 'target' and behaviour = 'buy'", "domain = 'target' and behaviour = 'like'")
        return {
            "data": {
                "format": "table",
                "path": str(self.folder / "events.csv"),
                "columns": columns,
                "time_unit": "s",
                "users": {"path": str(self.folder / "users.csv"), "id": "user"},
            },
            "history": {"where": "domain = 'source'"},
            "split": {"kind": "user", "valid": 0.1, "test": 0.2, "seed": 0},
            "tasks": [
                {"name": "watch", "kind": "next_item", "description": "the next item a user watches"},
                {"name": "buy", "kind": "item", "where": bought, "description": "items a user buys in the shop"},
                {"name": "like", "kind": "item", "where": liked, "description": "an item of the shop a user likes"},
                {"name": "age", "kind": "one_of", "answer": "user.age", "description": "the age group of a user"},
                {"name": "gender", "kind": "one_of", "answer": "user.gender", "description": "the gender of a user"},
                {"name": "status", "kind": "one_of", "answer": "user.status", "description": "whom a user lives with"},
            ],
        }


def world(
    folder: Path | str,
    *,
    seed: int = 0,
    users: int = 2400,
    items: int = 240,
    targets: int = 60,
    genres: int = 12,
    tastes: int = 4,
    habits: int = 3,
    shortest: int = 5,
    longest: int = 40,
    chain: float = 0.4,
) -> World:
    """Writes a world in which six tasks can be learned; the same arguments write the same bytes.

    Args:
        folder: made if need be; events.csv, users.csv and world.json in it are replaced.
        seed: of all draws.
        users, items, targets: how many users, source items and target items.
        genres: of source and target items.
        tastes, habits: parts of the hidden type; at most 4 and 3, one for each class of age and status.
        shortest, longest: of a source history; 2 <= shortest <= longest <= items / 2.
        chain: share of steps that follow the taste's chain of genres, 0 to 1.

    Raises:
        UsageError: a number out of its range.
    """
    if not (1 <= tastes <= min(4, genres) and 1 <= habits <= 3 and genres * habits <= items and genres <= targets):
        raise UsageError(
            f"tastes {tastes}, habits {habits}, genres {genres}, items {items}, targets {targets}",
            expected="tastes <= 4, habits <= 3, tastes <= genres <= targets, genres * habits <= items",
            where="synthetic.world",
        )
    if not 0 <= chain <= 1:
        raise UsageError(f"chain = {chain}", expected="0 to 1", where="synthetic.world")
    truth = _typed(items, targets, genres, tastes, habits, chain)
    return _write(Path(folder), truth, np.random.default_rng(seed), users, shortest, longest)


def noise_world(
    folder: Path | str,
    *,
    seed: int = 0,
    users: int = 2400,
    items: int = 240,
    targets: int = 60,
    shortest: int = 5,
    longest: int = 40,
) -> World:
    """Writes a world in which a history tells nothing: the oracle is popularity, or the commonest class.

    Args and errors: as `world`.
    """
    popular, wanted = (1 / np.sqrt(1 + np.arange(n)) for n in (items, targets))
    first = (popular / popular.sum())[None]  # (1, S)
    answer = np.broadcast_to(wanted / wanted.sum(), (1, 1, targets))  # (1, 1, Y)
    shares = {"age": [0.4, 0.3, 0.2, 0.1], "gender": [0.55, 0.45], "status": [0.5, 0.3, 0.2]}
    classes = {name: np.array([share]) for name, share in shares.items()}
    chain = np.broadcast_to(first[:, None], (1, items, items))
    truth = Truth(first, chain, np.zeros(items, np.int64), answer, answer, classes)
    return _write(Path(folder), truth, np.random.default_rng(seed), users, shortest, longest)


def _typed(items: int, targets: int, genres: int, tastes: int, habits: int, chain: float) -> Truth:
    """The tables of the formulas above."""
    a, b = np.divmod(np.arange(tastes * habits), habits)  # (Z,) each
    g = np.arange(genres)
    own = g * tastes // genres == np.arange(tastes)[:, None]  # (tastes, G)
    likes = 0.9 * own / own.sum(1, keepdims=True) + 0.1 / genres  # F (tastes, G)
    follows = g == (g[:, None] + 1) % genres  # (G, G)
    moves = chain * follows + (1 - chain) * likes[:, None]  # M (tastes, G, G)

    genre, number = np.arange(items) % genres, np.arange(items) // genres  # (S,) each
    weight = np.where(number % habits == np.arange(habits)[:, None], 6.0, 1.0) / np.sqrt(1 + number // habits)
    of = (genre[:, None] == g).astype(float)  # (S, G)
    inside = weight / (weight @ of)[:, genre]  # W (habits, S)
    first = likes[a][:, genre] * inside[b]  # (Z, S)
    steps = moves[a][:, genre][:, :, genre] * inside[b][:, None]  # (Z, S, S)

    y = np.arange(targets) % genres  # (Y,) genre of each target item
    common = 2.0 ** -(np.arange(targets) // genres)  # (Y,)
    shelf = common / np.bincount(y, common, genres)[y]  # (Y,) sums to 1 in every genre
    fan = common * (np.arange(targets) % habits == b[:, None])  # (Z, Y)
    buy = 0.6 * (y == g[:, None]) * shelf + (0.3 * likes[a][:, y] * shelf)[:, None] + 0.1 / targets  # (Z, G, Y)
    soon = (y == (g[:, None] + 1) % genres) * shelf  # (G, Y)
    like = 0.55 * soon + (0.35 * fan / fan.sum(1, keepdims=True))[:, None] + 0.1 / targets  # (Z, G, Y)
    age = np.full((4, 4), 0.2 / 3) + (0.8 - 0.2 / 3) * np.eye(4)
    gender = np.array([[0.85, 0.15], [0.15, 0.85]])
    status = np.full((3, 3), 0.1) + 0.7 * np.eye(3)
    return Truth(
        first, steps, genre, buy, like, {"age": age[a], "gender": gender[a * 2 // tastes], "status": status[b]}
    )


def _drawn(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
    """(n,) one column of each row of `weights` (n, m), drawn in proportion."""
    total = np.cumsum(weights, axis=1)  # (n, m)
    return (total < rng.random(len(weights))[:, None] * total[:, -1:]).sum(1)


def _histories(truth: Truth, rng: np.random.Generator, types: np.ndarray, longest: int) -> np.ndarray:
    """(U, longest) source items, none twice."""
    who = np.arange(len(types))
    met = np.zeros((len(types), truth.first.shape[1]), bool)  # (U, S)
    steps = [_drawn(rng, truth.first[types])]
    for _ in range(longest - 1):
        met[who, steps[-1]] = True
        steps.append(_drawn(rng, np.where(met, 0.0, truth.chain[types, steps[-1]])))
    return np.stack(steps, axis=1)


def posterior(truth: Truth, histories: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """p(type | the first `lengths` events), exact.

    Args:
        truth: the probabilities.
        histories: (U, T) source items; what lies behind `lengths` is not read.
        lengths: (U,) 1 to T.

    Returns:
        (U, Z), rows sum to 1.
    """
    log = np.log(truth.first[:, histories[:, 0]]).T.copy()  # (U, Z)
    for t in range(1, int(lengths.max())):
        on = np.flatnonzero(lengths > t)
        before, now = histories[on, t - 1], histories[on, t]  # (n,) each
        met = truth.chain[:, before[:, None], histories[on, :t]].sum(2)  # (Z, n) mass that was left out
        log[on] += (np.log(truth.chain[:, before, now]) - np.log1p(-met)).T
    log -= log.max(1, keepdims=True)
    return np.exp(log) / np.exp(log).sum(1, keepdims=True)


def forecast(truth: Truth, histories: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """p(answer | what may be seen), exact: task -> (U, number of answers).

    For buy: the expected share of each item in the NDCG of the user's one or two answers. Args as in `posterior`.
    """
    who = np.arange(len(histories))
    knows = posterior(truth, histories, lengths)  # (U, Z)
    genre = truth.genre[histories[who, lengths - 1]]  # (U,)
    ideal = 1 + 1 / np.log2(3)
    both = truth.buy * (1 + (truth.buy / (1 - truth.buy)).sum(2, keepdims=True) - truth.buy / (1 - truth.buy))
    share = (1 - TWO) * truth.buy + TWO * both / ideal  # (Z, G, Y)
    found = {"watch": _next(truth, histories, lengths - 1)}
    for name, table in (("buy", share), ("like", truth.like)):
        found[name] = np.einsum("uz,zuy->uy", knows, table[:, genre])
    return found | {name: knows @ table for name, table in truth.classes.items()}


def _next(truth: Truth, histories: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(U, S) p(next source item | the first `seen` events)."""
    knows, who = posterior(truth, histories, seen), np.arange(len(histories))
    met = np.zeros((len(histories), truth.first.shape[1]), bool)  # (U, S)
    for t in range(int(seen.max())):
        on = seen > t
        met[who[on], histories[on, t]] = True
    found = np.zeros(met.shape)
    for z in range(len(truth.first)):
        step = np.where(met, 0.0, truth.chain[z, histories[who, seen - 1]])  # (U, S)
        found += knows[:, z, None] * step / step.sum(1, keepdims=True)
    return found


def best_scores(task: str, forecasts: np.ndarray) -> dict[str, np.ndarray]:
    """metric -> (U,) the highest expected score, reached by ranking by the forecast.

    Args:
        task: one of TASKS; buy has NDCG from k = 2 on only, as hits of one or two answers are no sum over items.
        forecasts: (U, n) of `forecast`.
    """
    ranked = -np.sort(-forecasts, axis=1)  # (U, n)
    if task in CLASSES:
        return {"accuracy": ranked[:, 0], "log_loss": -(ranked * np.log(ranked)).sum(1)}
    discount = 1 / np.log2(np.arange(2, ranked.shape[1] + 2))
    found = {f"ndcg@{k}": ranked[:, :k] @ discount[:k] for k in KS if task != "buy" or k > 1}
    if task != "buy":
        for k in KS:
            found[f"hr@{k}"] = ranked[:, :k].sum(1)
            found[f"mrr@{k}"] = ranked[:, :k] @ (1 / np.arange(1, min(k, ranked.shape[1]) + 1))
    return found


def _write(folder: Path, truth: Truth, rng: np.random.Generator, users: int, shortest: int, longest: int) -> World:
    items, targets = truth.first.shape[1], truth.buy.shape[2]
    if not (users >= 1 and 2 <= shortest <= longest <= items / 2 and targets >= 2):
        raise UsageError(
            f"users {users}, shortest {shortest}, longest {longest}, items {items}, targets {targets}",
            expected="users >= 1, targets >= 2, 2 <= shortest <= longest <= items / 2",
            where="synthetic.world",
        )
    types = rng.integers(len(truth.first), size=users)  # (U,)
    lengths = rng.integers(shortest, longest + 1, size=users)  # (U,)
    histories = _histories(truth, rng, types, longest)  # (U, T)
    answers = _answers(truth, rng, types, histories, lengths)
    per_user = {}
    for task, table in forecast(truth, histories, lengths).items():
        has = answers[task][:, 0] >= 0
        per_user[task] = {m: np.where(has, score, np.nan) for m, score in best_scores(task, table).items()}
    oracle = {
        t: {m: float(np.nanmean(v)) for m, v in scores.items() if not np.isnan(v).all()}
        for t, scores in per_user.items()
    }
    histories = np.where(np.arange(longest) < lengths[:, None], histories, -1)
    ids = _ids("u", users)
    made = World(folder, truth, types, histories, lengths, ids, answers, per_user, oracle)
    folder.mkdir(parents=True, exist_ok=True)
    _events(made, rng).write_csv(folder / "events.csv")
    profile = {n: [names[c] if c >= 0 else None for c in answers[n][:, 0]] for n, names in CLASSES.items()}
    pl.DataFrame({"user": ids, **profile}).write_csv(folder / "users.csv")
    (folder / "world.json").write_text(json.dumps({"oracle": oracle}, indent=1) + "\n", encoding="utf-8")
    return made


def _answers(
    truth: Truth, rng: np.random.Generator, types: np.ndarray, histories: np.ndarray, lengths: np.ndarray
) -> dict[str, np.ndarray]:
    """task -> (U, m) what each user answers, -1 where nothing."""
    who = np.arange(len(types))
    last = histories[who, lengths - 1]
    wants = truth.buy[types, truth.genre[last]]  # (U, Y)
    one = _drawn(rng, wants)
    rest = wants.copy()
    rest[who, one] = 0
    two = np.where(rng.random(len(types)) < TWO, _drawn(rng, rest), -1)
    found = {"watch": last[:, None], "buy": np.stack([one, two], axis=1)}
    tables: Mapping[str, np.ndarray] = {"like": truth.like[types, truth.genre[last]]}
    tables = {**tables, **{name: table[types] for name, table in truth.classes.items()}}
    for name, weights in tables.items():
        found[name] = np.where(rng.random(len(types)) < KNOWN[name], _drawn(rng, weights), -1)[:, None]
    return found


def _events(made: World, rng: np.random.Generator) -> pl.DataFrame:
    """The log: every history, and after it the buys and likes, in a mixed order of rows."""
    started = 1_700_000_000 + rng.integers(0, 86_400 * 30, size=len(made.types))  # (U,)
    parts = []
    for behaviour, domain, prefix, table in (
        ("watch", "source", "s", made.histories),
        ("buy", "target", "t", made.answers["buy"]),
        ("like", "target", "t", made.answers["like"]),
    ):
        user, nth = np.nonzero(table >= 0)
        after = {"watch": 0, "buy": 100, "like": 200}[behaviour]
        parts.append(
            pl.DataFrame(
                {
                    "user": pl.Series(made.user_ids).gather(user),
                    "item": pl.Series(_ids(prefix, table.max() + 1)).gather(table[user, nth]),
                    "time": started[user] + 3600 * (nth + after),
                    "behaviour": [behaviour] * len(user),
                    "domain": [domain] * len(user),
                    "value": rng.integers(1, 6, size=len(user)),
                }
            )
        )
    log = pl.concat(parts)
    return log[rng.permutation(len(log))]


def _ids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{at:04}" for at in range(count)]
