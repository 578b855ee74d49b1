"""The memory of what stood together: by hand, with the user it is asked about left out, and in a head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from perdure.evaluation import metrics
from perdure.events.batch import Batch
from perdure.events.together import pairs
from perdure.model import heads
from perdure.model import memory as remembered
from perdure.model.heads import ItemsHead
from perdure.model.memory import Memory, right

N, LABELS = 12, np.array([3, 5, 7, 9, 11, 13])


def crowd(n: int = 40, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Histories of item rows, and answers, one to three label rows, some of which stand in the history."""
    rng = np.random.default_rng(seed)
    histories = [rng.integers(2, N + 2, rng.integers(1, 7)).tolist() for _ in range(n)]
    return histories, [rng.permutation(len(LABELS))[: rng.integers(1, 4)].tolist() for _ in range(n)]


def batch_of(histories: list[list[int]], answers: list[list[int]] | None = None) -> Batch:
    items = torch.nn.utils.rnn.pad_sequence([torch.tensor(h) for h in histories], batch_first=True)
    lengths = torch.tensor([len(h) for h in histories])
    if answers is None:
        return Batch(items, lengths)
    starts = torch.tensor([0, *np.cumsum([len(a) for a in answers]).tolist()])
    return Batch(items, lengths, answers=torch.tensor([y for a in answers for y in a]), answer_starts=starts)


def filled(histories: list[list[int]], answers: list[list[int]], popularity: float = 0.5) -> Memory:
    baskets = [sorted({*h, *LABELS[a].tolist()}) for h, a in zip(histories, answers, strict=True)]
    users, items = np.repeat(np.arange(len(baskets)), [len(b) for b in baskets]), np.concatenate(baskets)
    memory = Memory(LABELS, N, 200, popularity)
    memory.count(users, items)
    return memory


def seen(batch: Batch) -> torch.Tensor:
    """(B, Y) bool: labels that stand in a user's history."""
    return torch.tensor([[row in history for row in LABELS.tolist()] for history in batch.items.tolist()])


def known(batch: Batch) -> torch.Tensor:
    """The labels that users were counted with: what they saw, and their answers."""
    return seen(batch) | right(batch, len(LABELS))


def alone(memory: Memory, batch: Batch) -> torch.Tensor:
    """What is told to each user, left out of the counts."""
    return memory(batch, known(batch))


def sized(s: torch.Tensor) -> torch.Tensor:
    """(B, Y) sums, those above 0 of mean square 1 for each user."""
    return torch.stack([row / row[row > 0].square().mean().sqrt() if row.any() else row for row in s])


def test_by_hand():
    memory = filled([[2, 4], [2], [2, 4, 4]], [[0], [0], [1]], popularity=0.5)  # baskets 2 3 4, 2 3, 2 4 5
    told = memory(batch_of([[2, 4, 2], [6]]))  # (2, Y)
    # label 0 is item 3: it stood in two baskets with item 2, in one with item 4
    first = 2 * 2 / (3**0.5 * 2**0.5) + 1 / (2**0.5 * 2**0.5)
    second = 2 * 1 / (3**0.5 * 1) + 1 / (2**0.5 * 1)
    size = ((first**2 + second**2) / 2) ** 0.5
    torch.testing.assert_close(told[0], torch.tensor([first / size, second / size, 0, 0, 0, 0]))
    assert not told[1].any()
    plain = filled([[2, 4], [2], [2, 4, 4]], [[0], [0], [1]], popularity=0.0)(batch_of([[2]]))
    torch.testing.assert_close(plain[0, :2], torch.tensor([2.0, 1.0]) / 2.5**0.5)  # 2 / 3^1/2 and 1 / 3^1/2


@pytest.mark.parametrize("popularity", [0.0, 0.5])
def test_a_user_left_out_is_scored_as_by_a_memory_without_that_user(popularity):
    histories, answers = crowd()
    whole = alone(filled(histories, answers, popularity), batch_of(histories, answers))
    for u in range(0, len(histories), 3):
        others = filled(histories[:u] + histories[u + 1 :], answers[:u] + answers[u + 1 :], popularity)
        torch.testing.assert_close(whole[u], others(batch_of([histories[u]]))[0])


def test_a_user_left_out_does_not_choose_which_pairs_are_kept():
    """A pair that is kept for the sake of the user's own answer is not told to that user."""
    histories, answers = crowd(60, 5)
    baskets = [sorted({*h, *LABELS[a].tolist()}) for h, a in zip(histories, answers, strict=True)]
    users, items = np.repeat(np.arange(60), [len(b) for b in baskets]), np.concatenate(baskets)
    met, memory = np.bincount(items, minlength=N + 2), Memory(LABELS, N, 25, 0.5)
    *found, least = pairs(users, items, LABELS, N, 25)
    memory.count(users, items)
    told, fewer = alone(memory, batch_of(histories, answers)), 0
    for u, history in enumerate(histories):
        others = users != u
        one = np.bincount(items[others], minlength=N + 2)
        i, y, c, _ = pairs(users[others], items[others], LABELS, N, 10**6)
        kept = (c / np.sqrt(met[i]) > least) & (np.isin(i * 100 + y, found[0] * 100 + found[1]))
        sums = np.zeros(len(LABELS))
        for item in history:
            mine = kept & (i == item)
            np.add.at(sums, y[mine], c[mine] / np.sqrt(one[item] * one[LABELS[y[mine]]]))
        torch.testing.assert_close(told[u], sized(torch.tensor(sums).float()[None])[0])
        fewer += int((memory(batch_of([history]))[0] > 0).sum() > (told[u] > 0).sum())
    assert fewer > 5


def test_a_user_is_left_out_with_all_answers_wherever_they_are_asked():
    """With a row for each answer, too: nobody but user 0 met item 2, so nothing is told of it."""
    memory, users = Memory(LABELS, N, 200, 0.5), np.array([0, 0, 0, 4, 4])
    items = np.array([2, 3, 5, 3, 4])  # user 0: item 2, and as answers labels 0 and 1
    memory.count(users, items)
    rows = replace(batch_of([[2], [2], [4]], [[0], [1], [0]]), users=torch.tensor([0, 0, 4]))
    assert memory.held(users, items, rows).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]]
    assert memory(rows)[:2, :2].all() and not memory(rows, memory.held(users, items, rows)).any()
    assert memory(rows, known(rows))[:2].any()  # where only the row's own answer is left out, the other tells


def test_in_parts_what_is_told_is_the_same_bit_for_bit(monkeypatch):
    histories, answers = crowd()
    memory, batch = filled(histories, answers), batch_of([*histories, []], [*answers, []])
    whole = memory(batch), alone(memory, batch)
    for size in (1, 7, 100):
        monkeypatch.setattr(remembered, "AT_ONCE", size)
        assert torch.equal(memory(batch), whole[0]) and torch.equal(alone(memory, batch), whole[1])
    assert not memory(Batch(torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0]))).any()


def test_large_counts_keep_their_proportions():
    memory = Memory(np.array([8, 9]), 8, 10, 0.0)
    users = np.repeat(np.arange(100_000), 2)
    items = np.stack([np.full(100_000, 2), np.where(np.arange(100_000) < 80_000, 8, 9)], 1).ravel()
    memory.count(users, items)
    told = memory(batch_of([[2]]))[0]
    assert float(told[0] / told[1]) == pytest.approx(4, rel=0.01)


def test_nobody_changes_what_another_is_told():
    histories, answers = crowd()
    memory = filled(histories, answers)
    together = memory(batch_of(histories))
    for u in range(0, len(histories), 7):
        assert torch.equal(memory(batch_of([histories[u]]))[0], together[u])


def test_what_is_told_is_of_one_size_for_everybody():
    histories, answers = crowd()
    memory, batch = filled(histories, answers), batch_of(histories, answers)
    for left_out in (False, True):
        told = alone(memory, batch) if left_out else memory(batch)
        torch.testing.assert_close(told, sized(told))
        assert (told > 0).any(1).float().mean() > 0.9
    assert not Memory(LABELS, N, 200, 0.5)(batch).any()


def test_what_is_right():
    batch = batch_of([[3, 4, 3], [2], [13, 2, 5]], [[1], [], [1, 4]])
    assert right(batch, 6).nonzero().tolist() == [[0, 1], [2, 1], [2, 4]]
    assert not right(batch_of([[2]]), 6).any()


def head(memory: Memory | None) -> ItemsHead:
    torch.manual_seed(0)
    return ItemsHead(LABELS, np.arange(6), 4, 1.0, np.zeros(6, bool), memory=memory)


def test_a_memory_waits_until_it_is_weighed():
    """Neither the loss nor the scores of a head know of a memory before."""
    histories, answers = crowd()
    batch, table, u = batch_of(histories, answers), torch.randn(N + 2, 4), torch.randn(len(histories), 4)
    with_memory, without = head(filled(histories, answers)), head(None)
    assert not with_memory.recalls and not without.recalls
    assert torch.equal(with_memory.loss(u, batch, table), without.loss(u, batch, table))
    assert [n for n, _ in with_memory.named_parameters()] == [n for n, _ in without.named_parameters()]


def test_the_trust_is_the_one_that_ranks_best_and_the_same_in_parts(monkeypatch):
    """Held against the library's own measure, user by user, each left out of the counts."""
    rng = np.random.default_rng(7)
    kinds = rng.integers(0, 6, 200)
    histories = [[int(2 * k + 2), int(rng.integers(2, N + 2))] for k in kinds]  # one event tells of an answer
    answers = [[int(k), int((k + j) % 6)][: j + 1] for k, j in zip(kinds, rng.integers(0, 2, 200), strict=True)]
    batch, table = batch_of(histories, answers), torch.randn(N + 2, 4, generator=torch.Generator().manual_seed(2))
    u, trusts = torch.randn(len(batch), 4, generator=torch.Generator().manual_seed(3)), []
    for cells in (10**6, 400, 1):
        monkeypatch.setattr(heads, "CELLS", cells)
        monkeypatch.setattr(heads, "BEST", 2)
        own = head(filled(histories, answers))
        own.weigh([(u, batch)], table, known, seen)
        trusts.append(float(own.trust))
    scores, more = own.score(u, table).detach(), alone(own.memory, batch)
    gains = []
    for trust in heads.TRUSTS:
        s, ranks = scores + trust * more, []
        for b, told in enumerate(answers):
            others = [y for y in range(6) if y in told or LABELS[y] not in histories[b]]
            ranks.append([1 + sum(bool(s[b, x] > s[b, y]) for x in others) for y in told])
        starts = np.cumsum([0, *map(len, ranks)])
        gains.append(metrics.ndcg(np.concatenate(ranks), starts, 2).mean())
    assert trusts == [pytest.approx(heads.TRUSTS[int(np.argmax(gains))])] * 3 and trusts[0] > 0


def test_a_memory_is_trusted_where_it_tells_and_not_where_it_does_not():
    rng = np.random.default_rng(3)
    kinds = rng.integers(0, 6, 400)
    told = [[int(2 * k + 2)] for k in kinds]  # item 2 k + 2 goes with label k, which is item 2 k + 3
    noise = [[int(i)] for i in rng.integers(2, N + 2, 400)]
    answers = [[int(k)] for k in kinds]
    for histories, sure in ((told, True), (noise, False)):
        own, batch = head(filled(histories, answers)), batch_of(histories, answers)
        own.map.data.zero_()  # user vectors know nothing, and popularity is noise of its own
        own.bias.data.copy_(torch.randn(6, generator=torch.Generator().manual_seed(1)))
        own.weigh([(torch.zeros(400, 4), batch)], torch.zeros(N + 2, 4), known, seen)
        scores = own.score(torch.zeros(400, 4), torch.zeros(N + 2, 4)) + own.recall(batch)
        right = (scores.argmax(1) == torch.from_numpy(kinds)).float().mean()
        assert (own.trust > 1) == sure and (right > 0.95) == sure
