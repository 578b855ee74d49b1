"""clue_service: services by hand, the loss against a slow reference, chunks and processes against the whole batch; what
it finds in a world where services share the users' types, and in one where they do not."""

from __future__ import annotations

import math
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist

from perdure.encoders.sasrec import SASRec
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.events.ids import Ids
from perdure.events.marks import Marks
from perdure.objectives.base import Learner
from perdure.objectives.clue_service import ClueService, ServiceParts

N, T, TYPES = 48, 12, 4
SERVICES = Marks({"day": Ids(["mon"], first=1), "domain": Ids(["arts", "bikes", "cafes"], first=1)})


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoder(dropout: float = 0.0) -> SASRec:
    made = SASRec(N, width=16, max_length=T, dropout=dropout, readout="mean")
    made.reset(rng())
    return made


def told(made: SASRec, marks: Marks = SERVICES, **options) -> tuple[Learner, ClueService]:
    objective = ClueService(**options)
    objective.read(marks)
    return Learner(made, made.vector, made.item_table, parts=objective.parts(made, None, rng())), objective


def histories() -> Batch:
    """Five users: two services, three, one, one event, none; and an event of no service."""
    services = torch.tensor(
        [[1, 2, 1, 1, 2, 0], [3, 1, 2, 3, 1, 2], [2, 2, 2, 2, 2, 0], [3, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    )
    lengths = torch.tensor([6, 6, 5, 1, 0])
    items = torch.arange(2, 8).repeat(5, 1) + 6 * torch.arange(5)[:, None]
    items = items * (torch.arange(6) < lengths[:, None])
    return Batch(items, lengths, users=torch.arange(5), marks=torch.stack([torch.ones_like(services), services], -1))


def events(view: Batch) -> list[list[int]]:
    return [row[:n] for row, n in zip(view.items.tolist(), view.lengths.tolist(), strict=True)]


def test_two_services_of_each_user_by_hand():
    learner, objective = told(encoder())
    first, second, two = objective.pair(learner, histories(), rng())
    assert two.tolist() == [True, True, False, False, False]
    assert (events(first)[0], events(second)[0]) == ([2, 4, 5], [3, 6])  # in their order, without the last
    assert events(first)[2:] == [[14, 15], [20], []] and events(second)[2:] == [[16, 17, 18], [20], []]  # halves
    of = {(8, 11): 3, (9, 12): 1, (10, 13): 2}
    found = set()
    for seed in range(60):
        first, second, _ = objective.pair(learner, histories(), rng(seed))
        found.add((of[tuple(events(first)[1])], of[tuple(events(second)[1])]))
    assert found == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a < b}


def test_services_may_be_an_attribute_of_items():
    rows = np.zeros((N + 2, 2), np.int32)
    rows[2:26, 1], rows[26:, 1] = 1, 2
    marks = Marks(items={"town": Ids(["x"], first=1), "shop": Ids(["a", "b"], first=1)}, places=(0, 1), attributes=rows)
    learner, objective = told(encoder(), marks, by="shop")
    batch = Batch(torch.tensor([[2, 30, 3, 49, 1], [2, 3, 4, 0, 0]]), torch.tensor([5, 3]))
    assert objective.services(learner, batch).tolist() == [[1, 2, 1, 2, 0], [1, 1, 1, 0, 0]]
    assert isinstance(learner.parts, ServiceParts) and "service_of" in learner.parts.state_dict()


def test_a_service_that_is_not_read_is_refused():
    with pytest.raises(SettingsError, match="which service"):
        told(encoder(), Marks(gaps=3))
    with pytest.raises(SettingsError, match="which service"):
        ClueService().parts(encoder(), None, rng())


@pytest.mark.parametrize("alone", ["leave", "windows"])
def test_the_loss_by_a_slow_reference(alone):
    learner, objective = told(encoder(), tau=0.2, alone=alone)
    got = objective.loss(learner, histories(), rng(3))
    first, second, _ = objective.pair(learner, histories(), rng(3))
    users = [0, 1] if alone == "leave" else [0, 1, 2]  # one event makes no two windows
    a, b = learner.vector(first).detach(), learner.vector(second).detach()

    def one_way(x, y):
        total = 0.0
        for u in users:
            cosines = {v: float(torch.cosine_similarity(x[u], y[v], dim=0)) / 0.2 for v in users}
            total -= cosines[u] - math.log(sum(math.exp(c) for c in cosines.values()))
        return total / len(users)

    assert float(got.detach()) == pytest.approx((one_way(a, b) + one_way(b, a)) / 2, rel=1e-5)


def test_the_temperature_is_learned_unless_told_otherwise():
    learner, objective = told(encoder(), tau=0.2)
    objective.loss(learner, world(0), rng()).backward()
    assert learner.parts.tau.item() == pytest.approx(0.2) and learner.parts.log_tau.grad != 0
    with torch.no_grad():
        learner.parts.log_tau.fill_(-9.0)
    assert learner.parts.tau.item() == pytest.approx(0.01)
    learner, objective = told(encoder(), learn_tau=False)
    objective.loss(learner, world(0), rng()).backward()
    assert learner.parts.log_tau.grad is None and not learner.parts.log_tau.requires_grad


def test_a_temperature_at_its_least_may_rise_again():
    learner, objective = told(encoder())
    with torch.no_grad():
        learner.parts.log_tau.fill_(-9.0)
    steps = torch.optim.SGD([learner.parts.log_tau], lr=0.1)
    loss = objective.loss(learner, world(0), rng())  # of vectors that tell nothing: a larger one is better
    loss.backward()
    assert learner.parts.log_tau.item() == pytest.approx(math.log(0.01)) and learner.parts.log_tau.grad < 0
    steps.step()
    assert learner.parts.tau.item() > 0.0101


def test_no_two_services_no_loss():
    learner, objective = told(encoder())
    loss = objective.loss(learner, histories().of(torch.tensor([2, 3])), rng())
    loss.backward()
    assert float(loss.detach()) == 0
    same = replace(world(0), users=torch.zeros(32, dtype=torch.long))  # one user, in many rows
    assert float(objective.loss(learner, same, rng()).detach()) == pytest.approx(0, abs=1e-6)


def gradients(objective: ClueService, learner: Learner, made: SASRec) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(4)
    made.zero_grad()
    loss = objective.loss(learner, world(0), rng(1))
    loss.backward()
    return (loss.detach(), *(p.grad.clone() for p in made.parameters() if p.grad is not None))


def test_chunks_give_the_gradients_of_the_whole_batch():
    made = encoder()
    whole, chunked = (told(made, chunk=chunk) for chunk in (0, 5))
    for a, b in zip(gradients(whole[1], whole[0], made), gradients(chunked[1], chunked[0], made), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_chunks_drop_out_the_same_both_times():
    made = encoder(dropout=0.5).train()
    (learner, chunked), (_, whole) = told(made, chunk=5), told(made)
    rows = torch.arange(32).split(5)
    parted = replace(learner, vector=lambda view: torch.cat([made.vector(view.of(some)) for some in rows]))
    for a, b in zip(gradients(chunked, learner, made), gradients(whole, parted, made), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def share(number: int, count: int, folder: str, found: multiprocessing.Queue) -> None:
    """One of `count` processes with every count-th user: the sum of all their gradients."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/meeting", count)
    dist.init_process_group("gloo", store=store, rank=number, world_size=count)
    made = encoder()
    learner, objective = told(made)
    rows = torch.arange(number, 32, count) if number else torch.arange(0, 32, count)[:-3]
    loss = objective.loss(learner, pairs().of(rows), rng(number)) / count
    loss.backward()
    total = [p.grad if p.grad is not None else torch.zeros_like(p) for p in [*made.parameters(), learner.parts.log_tau]]
    for grad in total:
        dist.all_reduce(grad)
    if not number:
        found.put([float(loss.detach()) * count, *(grad.numpy() for grad in total)])
    dist.barrier()
    dist.destroy_process_group()


def pairs() -> Batch:
    """Users who do the same in both services."""
    batch = world(0)
    half = batch.items[:, : T // 2].repeat(1, 2)  # (32, T)
    services = 1 + (torch.arange(T) >= T // 2).long().expand(32, -1)  # (32, T)
    return replace(batch, items=half, marks=torch.stack([torch.zeros_like(services), services], -1))


def test_two_processes_are_one_batch(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    start = multiprocessing.get_context("spawn")
    found = start.Queue()
    workers = [start.Process(target=share, args=(k, 2, str(tmp_path), found)) for k in range(2)]
    for worker in workers:
        worker.start()
    loss, *grads = found.get(timeout=120)
    for worker in workers:
        worker.join(60)
    made = encoder()
    learner, objective = told(made)
    rows = torch.tensor([*range(0, 26, 2), *range(1, 32, 2)])
    expected = objective.loss(learner, pairs().of(rows), rng())
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for grad, parameter in zip(grads, [*made.parameters(), learner.parts.log_tau], strict=True):
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(torch.from_numpy(grad), wanted, rtol=1e-3, atol=1e-6)


def world(seed: int, users: int = 32, shared: bool = True) -> Batch:
    """Users take items of their type's part of two services, half of the catalogue each; not `shared`: of a type of its
    own in each."""
    draw = rng(seed)
    kind = torch.randint(TYPES, (users, 2), generator=draw)
    kind[:, 1] = kind[:, 0] if shared else kind[:, 1]
    services = torch.randint(2, (users, T), generator=draw)
    services[:, 0], services[:, 1] = 0, 1
    span = N // 2 // TYPES
    part = 2 + services * N // 2 + kind.gather(1, services) * span  # (users, T)
    items = part + torch.randint(span, (users, T), generator=draw)
    marks = torch.stack([torch.zeros_like(services), services + 1], -1)
    return Batch(items, torch.full((users,), T), users=torch.arange(users), marks=marks)


def trained(shared: bool) -> float:
    """Share of new users whose events in one service are nearest to those of a user of their type in the other."""
    made = encoder(dropout=0.1)
    learner, objective = told(made.train())
    torch.manual_seed(0)
    optimizer = torch.optim.Adam([*made.parameters(), *learner.parts.parameters()], lr=3e-3)
    for step in range(80):
        optimizer.zero_grad()
        objective.loss(learner, world(step + 1, shared=shared), rng(step)).backward()
        optimizer.step()
    asked = world(999, 200, shared)
    one, other, two = objective.pair(learner, asked, rng(5))
    assert two.all()
    with torch.inference_mode():
        a, b = (torch.nn.functional.normalize(made.eval().vector(view), dim=1) for view in (one, other))
    first, second = ((view.items[:, 0] - 2) % (N // 2) // (N // 2 // TYPES) for view in (one, other))  # (200,)
    return float((first == second[(a @ b.T).argmax(1)]).float().mean())


def test_it_finds_what_services_share_and_nothing_where_they_do_not():
    assert trained(True) > 0.95
    assert trained(False) < 0.5  # which types are neighbours is chance, and so are all the users of one


def test_the_measure_is_who_finds_themselves():
    learner, objective = told(encoder().eval())
    assert objective.judge(learner, pairs(), rng()).mean() > 0.9  # both services are the same events
    assert objective.judge(learner, histories(), rng()).shape == (5,)
