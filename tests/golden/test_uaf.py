"""UAF: choices, gradients and rewards by hand, every user against the blocks chosen for him, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from contracts import members
from torch import nn

from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.model.heads import LabelsHead
from perdure.tuning.base import everything
from perdure.tuning.uaf import UAF, Routes, mean_of_events

CHOICES = ["hard", "soft", "rl"]


class Times(nn.Module):
    """y = k x"""

    def __init__(self, k):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(float(k)))

    def forward(self, x):
        return self.k * x


class Says(nn.Module):
    """A policy that says what it was told: (B, L, 2)."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x, lengths):
        return self.logits


def routes_of(choice="hard", squash=False):
    """Two blocks: y = 2 x and y = 3 x at two sites; the copies: 5 x, 7 x, 11 x."""
    sites = {"one/a": Times(2), "two/a": Times(3), "two/b": Times(3)}
    made = Routes(sites, 4, choice, squash, "last", torch.Generator())
    for site, k in zip(sites, (5.0, 7.0, 11.0), strict=True):
        made.copies[site].k.data.fill_(k)
    return made, sites


def one_more(encoder="sasrec", choice="hard", shape=None, **options):
    """A model about to learn its second task; events that differ, copies and policy away from where they begin."""
    model = members.new_model(encoder, "uaf", encoder=shape, choice=choice, **options)
    members.learn(model, "watch", "next_item")
    model.add(members.card("buy", "item"), torch.Generator().manual_seed(1))
    overlay, g = model.overlays["buy"], torch.Generator().manual_seed(2)
    for weight in (model.backbone.item_table, overlay.policy.out.weight, *overlay.copies.parameters()):
        if weight.dim() == 2:
            weight.data += 0.5 * torch.randn(weight.shape, generator=g)
    return model.eval()


# -- choices ---


def test_a_block_is_the_backbones_the_copy_or_between():
    overlay, sites = routes_of("soft")
    overlay.policy = Says(torch.tensor([[[-99.0, 0.0], [99.0, 0.0]], [[math.log(1 / 3), 9.0], [0.0, 0.0]]]))
    door = overlay.via(Batch(torch.ones(2, 1, dtype=torch.long), torch.tensor([1, 1])))
    x = torch.ones(2, 1, 1)
    door("input", Times(1), torch.ones(2, 1))
    torch.testing.assert_close(door.a, torch.tensor([[0.0, 1.0], [0.25, 0.5]]))
    assert door("one/a", sites["one/a"], x).flatten().tolist() == [2.0, 2.0 + 0.25 * 3.0]
    assert door("two/a", sites["two/a"], x).flatten().tolist() == [7.0, 5.0]
    assert door("two/b", sites["two/b"], x).flatten().tolist() == [11.0, 7.0]


@pytest.mark.parametrize("choice", ["hard", "rl"])
@pytest.mark.parametrize("squash", [False, True])
def test_answers_take_the_likelier(choice, squash):
    overlay, _ = routes_of(choice, squash)
    logits = torch.tensor([[[2.0, 1.0], [1.0, 2.0]], [[0.0, 0.0], [-8.0, -9.0]]])
    assert overlay.decide(logits).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_preferences_by_hand():
    logits = torch.tensor([[[math.log(3.0), 0.0]]])
    assert routes_of()[0].preference(logits).item() == pytest.approx(math.log(3.0))
    assert routes_of(squash=True)[0].preference(logits).item() == pytest.approx(0.75 - 0.5)


@pytest.mark.parametrize(
    ("squash", "logits", "share"),
    [
        (False, (math.log(3.0), 0.0), 0.75),
        (False, (-2.0, 0.0), 1 / (1 + math.exp(2.0))),
        (False, (99.0, -99.0), 1.0),
        (True, (99.0, -99.0), 1 / (1 + math.exp(-1.0))),  # 0.731: no choice is surer
        (True, (-99.0, 99.0), 1 / (1 + math.exp(1.0))),  # 0.269
    ],
)
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_how_often_a_copy_is_drawn(squash, logits, share, progress):
    """P(a = 1) = sigma(z), at every temperature."""
    method, (overlay, _) = UAF(squash=squash, temperature=10.0, final_temperature=0.1), routes_of(squash=squash)
    a = method.drawn(overlay, torch.tensor(logits).expand(20_000, 1, 2), torch.Generator().manual_seed(3), progress)
    assert set(a.unique().tolist()) <= {0.0, 1.0}
    assert a.mean().item() == pytest.approx(share, abs=0.011)  # three deviations of the mean


def test_the_temperature_falls_by_equal_factors():
    method = UAF(temperature=8.0, final_temperature=2.0)
    assert [method.tau(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([8.0, 4.0, 2.0])
    assert UAF(temperature=10.0, final_temperature=10.0).tau(0.3) == 10.0


def test_a_hard_choice_has_the_gradient_of_its_soft_counterpart():
    """d sigma((z + g) / tau) / d z = s (1 - s) / tau, whichever side the choice fell on."""
    method, (overlay, _) = UAF(temperature=4.0, final_temperature=1.0), routes_of()
    logits = torch.tensor([[[0.3, -0.2]], [[-1.0, 1.0]], [[2.0, 0.5]]], requires_grad=True)
    a = method.drawn(overlay, logits, torch.Generator().manual_seed(5), 0.5)  # tau = 2
    v = torch.rand(3, 1, generator=torch.Generator().manual_seed(5))
    z = (logits[..., 0] - logits[..., 1]).detach()
    s = torch.sigmoid((z + v.log() - (1 - v).log()) / 2)
    assert torch.equal(a.detach(), (s > 0.5).float())
    a.sum().backward()
    torch.testing.assert_close(logits.grad[..., 0], s * (1 - s) / 2)
    torch.testing.assert_close(logits.grad[..., 1], -s * (1 - s) / 2)


# -- users and blocks ---


@pytest.mark.parametrize(
    ("encoder", "blocks"), [("nextitnet", 8), ("sasrec", 3), ("gru4rec", 2)]
)  # sasrec and gru4rec have a closing norm
def test_what_is_chosen_is_blocks(encoder, blocks):
    model = one_more(encoder)
    overlay = model.overlays["buy"]
    assert sorted(set(overlay.place.values())) == list(range(blocks))
    sites = [site for site in model.backbone.sites() if site != "input"]
    assert list(overlay.place) == sites
    assert all(
        (overlay.place[s] == overlay.place[t]) == (s.split("/")[0] == t.split("/")[0]) for s in sites for t in sites
    )


@pytest.mark.parametrize(
    ("encoder", "choice"),  # soft, the whole blocks of NextItNet are mixed, see test_a_policy_learns_from_whole_blocks
    [(e, c) for e in members.STATEFUL for c in CHOICES if (e, c) != ("nextitnet", "soft")],
)
def test_every_user_goes_through_the_blocks_chosen_for_him(encoder, choice):
    """Alone, with the policy's choice written out layer by layer."""
    model, data = one_more(encoder, choice), members.batch(8, size=12)
    overlay, seen = model.overlays["buy"], []
    with torch.no_grad():
        fast = model.represent(data, "buy")
        for b, n in enumerate(data.lengths.tolist()):
            alone = model.backbone.question(Batch(data.items[b : b + 1, :n], data.lengths[b : b + 1]))
            events = model.backbone.sites()["input"](alone.items)
            a = overlay.decide(overlay.policy(events, alone.lengths))[0].tolist()
            seen.append(tuple(a))

            def via(site, layer, x, *context, a=a):
                y = layer(x, *context)
                if site == "input":
                    return y
                share = a[overlay.place[site]]
                return (1 - share) * y + share * overlay.copies[site](x, *context)

            torch.testing.assert_close(fast[b], model.backbone.vector(alone, via)[0], rtol=1e-3, atol=1e-4)
    assert len(set(seen)) > 1, "all users go the same way: nothing personal was tested"


def test_the_policy_reads_events_only():
    overlay = one_more().overlays["buy"]
    g = torch.Generator().manual_seed(4)
    x, lengths = torch.randn(3, 6, 16, generator=g), torch.tensor([6, 2, 0])
    with torch.no_grad():
        logits = overlay.policy(x, lengths)
        torch.testing.assert_close(overlay.policy(x[1:2, :2], lengths[1:2]), logits[1:2])
        torch.testing.assert_close(logits[2], overlay.policy.out.bias.view(-1, 2))  # of nothing, the bias alone
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("items", [[5] * 12, [5, 6, 7, 5, 6, 7, 8, 9, 8, 9, 8, 9], [3]])
def test_where_bags_are_read_the_policy_reads_all_their_entries(items):
    model = one_more("smen", "soft")
    overlay, data = model.overlays["buy"], Batch(torch.tensor([items]), torch.tensor([len(items)]))
    bags = model.backbone.bags(data)  # of one user: none of the entries is padding
    door = overlay.via(data)
    with torch.no_grad():
        x = model.backbone.sites()["input"](bags.interests)
        door("input", model.backbone.sites()["input"], bags.interests)
        torch.testing.assert_close(door.logits, overlay.policy(x, torch.tensor([x.shape[1]])))


def test_means_by_hand():
    h = torch.tensor([[[1.0], [3.0], [9.0]], [[4.0], [5.0], [6.0]], [[7.0], [7.0], [7.0]]])
    assert mean_of_events(h, torch.tensor([2, 3, 0])).flatten().tolist() == [2.0, 5.0, 0.0]


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_the_mean_of_all_states_may_be_read(encoder):
    model, data = one_more(encoder, readout="mean"), members.batch(6)
    with torch.no_grad():
        h = model.states(data, "buy")
        slow = torch.stack([h[b, :n].mean(0) for b, n in enumerate(data.lengths.tolist())])
        torch.testing.assert_close(model.represent(data, "buy"), slow)


@pytest.mark.parametrize("readout", ["attention", "anchors", "cls"])
def test_a_readout_with_weights_is_a_block(readout):
    views = {"name": "clue_seq", "views": "crop"}
    model = members.new_model("sasrec", "uaf", encoder={"readout": readout}, objective=views, choice="soft")
    members.learn(model, "watch", "next_item")
    members.learn(model, "buy", "item")
    data = members.batch(6)
    with torch.no_grad():
        together = model.represent(data, "buy")  # (B, d)
        alone = [model.represent(data.of(torch.tensor([b])), "buy") for b in range(len(data))]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_a_task_stores_a_copy_of_all_blocks_and_its_policy(encoder):
    model = one_more(encoder)
    sites = model.backbone.sites()
    blocks = sum(p.numel() for site, layer in sites.items() if site != "input" for p in layer.parameters())
    L = len({site.split("/")[0] for site in sites}) - 1
    d = model.backbone.width
    policy = 4 * (3 * d * d + d) + 4 * 2 * d + 2 * L * (d + 1)  # convolutions, norms, logits
    assert sum(t.numel() for t in model.overlays["buy"].state_dict().values()) == blocks + policy


# -- learning ---


@pytest.mark.parametrize(("choice", "norm"), [("hard", "post"), ("hard", "pre"), ("soft", "post")])
def test_a_policy_learns_from_whole_blocks(choice, norm):
    """h <- a B'(h) + (1 - a) B(h), with a non-linearity inside B, written out for NextItNet."""
    model = one_more("nextitnet", choice, {"norm": norm, "dilations": [1, 2]})
    data, overlay = members.batch(3, answers=members.Y), model.overlays["buy"]
    order = ("conv", "norm") if norm == "post" else ("norm", "conv")

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(overlay.policy.parameters()))])

    found = model.method.loss(model, "buy", data, torch.Generator().manual_seed(4), 0.5)
    h = model.backbone.layers["input"](data.items)  # (B, T, d)
    logits = overlay.policy(h, data.lengths)
    drawn = model.method.drawn(overlay, logits, torch.Generator().manual_seed(4), 0.5)  # (B, 2)
    a = drawn if choice == "hard" else overlay.decide(logits)  # (B, 2)
    for i in range(2):
        ways = []
        for layers in (model.backbone.layers, overlay.copies):
            y = h
            for site in (f"block{i}/{part}{j}" for j in (1, 2) for part in order):
                y = layers[site](y)
            ways.append(h + y)
        share = a[:, i, None, None]
        h = share * ways[1] + (1 - share) * ways[0]
    u = h[torch.arange(len(data)), data.lengths - 1]
    expected = model.heads["buy"].loss(u, data)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found), gradient(expected), rtol=1e-3, atol=1e-6)


def test_chance_comes_from_the_generator_that_is_given():
    model, data = one_more(), members.batch(3, answers=members.Y)

    def loss(seed):
        return model.method.loss(model, "buy", data, torch.Generator().manual_seed(seed), 0.0).item()

    state = torch.get_rng_state()
    assert loss(1) == loss(1) and len({loss(seed) for seed in range(5)}) > 1
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        assert torch.equal(model.score(data, "buy"), model.score(data, "buy"))


def test_a_copy_learns_from_the_users_it_serves():
    model, data = one_more(), members.batch(3, answers=members.Y)
    overlay = model.overlays["buy"]
    for choice, moves in ((0.0, False), (1.0, True)):
        overlay.zero_grad()
        u, _ = overlay.read(model.backbone, data, lambda logits, a=choice: torch.full(logits.shape[:2], a))
        model.heads["buy"].loss(u, data).backward()
        assert any(bool(p.grad.any()) for p in overlay.copies.parameters()) == moves


def test_rewards_by_hand():
    a = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    hit, miss = torch.ones(3), torch.zeros(3)
    assert UAF(gamma=1.0).reward(hit, a).tolist() == [1.0, 0.75, 0.0]
    assert UAF(gamma=1.0).reward(miss, a).tolist() == [-1.0, -1.0, -1.0]
    assert UAF(gamma=0.5).reward(torch.tensor([1.0, 0.5, 0.0]), a).tolist() == [1.0, 0.5 * 0.875 - 0.25, -0.5]


def test_hits_by_hand():
    """Scores of the five labels: 1, 2, 3, 4, 5; two of three others must score below."""
    head = LabelsHead(5, 1, torch.Generator())
    head.table.data = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
    answers, starts = torch.tensor([2, 2, 0, 4]), torch.tensor([0, 1, 3, 3, 4])
    data = Batch(torch.zeros(4, 1, dtype=torch.long), torch.ones(4), None, None, answers, starts)
    others = torch.tensor([[3, 4, 0], [3, 2, 0], [0, 0, 1], [4, 4, 4]])  # an other that is the answer does not count
    hits = UAF(choice="rl", top=2, negatives=3).hits(head, torch.ones(4, 1), data, others)
    # above 3: {4, 5} miss | above 3: {4} hit, above 1: {2} hit | no answers | above 5: nobody, hit
    assert hits.tolist() == [0.0, 1.0, 0.0, 1.0]
    hits = UAF(choice="rl", top=1, negatives=3).hits(head, torch.ones(4, 1), data, others)
    assert hits.tolist() == [0.0, 0.0, 0.0, 1.0]
    head.table.data[3] = 5.0  # a tie with the answer of the last user, who drew it
    assert UAF(choice="rl", top=1, negatives=3).hits(head, torch.ones(4, 1), data, others - (others == 4).int())[3] == 0


@pytest.mark.parametrize("straight", [False, True])
def test_the_reward_loss_is_what_one_user_at_a_time_gives(straight):
    model, data = (
        one_more(choice="rl", gamma=0.7, top=1, negatives=4, straight=straight),
        members.batch(3, size=24, answers=members.Y),
    )
    method, overlay, head = model.method, model.overlays["buy"], model.heads["buy"]
    overlay.zero_grad()
    loss = method.loss(model, "buy", data, torch.Generator().manual_seed(6), 0.5)
    loss.backward()
    fast = [p.grad.clone() for p in overlay.policy.parameters()]

    rng = torch.Generator().manual_seed(6)
    v = torch.rand(24, 3, generator=rng)
    others = torch.randint(members.Y, (len(data.answers), 4), generator=rng)
    z = None

    def sampled(logits):
        nonlocal z
        z = logits[..., 0] - logits[..., 1]
        noisy = z + v.log() - (1 - v).log()
        a, soft = (noisy.detach() > 0).float(), torch.sigmoid(noisy / method.tau(0.5))
        return a + soft - soft.detach() if straight else a

    def reward(u, a, b):
        rewards = []
        for at in range(int(data.answer_starts[b]), int(data.answer_starts[b + 1])):
            scores, answer = head.score(u)[b], int(data.answers[at])
            beaten = all(o == answer or scores[o] < scores[answer] for o in others[at].tolist())
            rewards.append(1 - 0.7 * (1 - a[b].mean().item()) ** 2 if beaten else -0.7)
        return sum(rewards) / len(rewards)

    overlay.zero_grad()
    u, door = overlay.read(model.backbone, data, sampled)
    greedy, sure = overlay.read(model.backbone, data, overlay.decide)
    gains = [reward(u, door.a, b) - reward(greedy, sure.a, b) for b in range(24)]
    assert len({round(gain, 3) for gain in gains}) > 2
    p, a = torch.distributions.Bernoulli(logits=z), door.a.detach().round()
    slow = head.loss(u, data) - sum(g * p.log_prob(a)[b].sum() for b, g in enumerate(gains)) / 24
    torch.testing.assert_close(loss, slow)
    slow.backward()
    for grad, weight in zip(fast, overlay.policy.parameters(), strict=True):
        torch.testing.assert_close(grad, weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("straight", [False, True])
def test_reward_teaches_the_policy_after_the_warm_up_only(straight):
    model, data = one_more(choice="rl", warmup=0.1, straight=straight), members.batch(3, size=24, answers=members.Y)
    overlay = model.overlays["buy"]
    for progress, moves in ((0.0, False), (0.09, False), (0.1, True), (1.0, True)):
        for p in overlay.parameters():
            p.grad = None
        model.method.loss(model, "buy", data, torch.Generator().manual_seed(6), progress).backward()
        assert all(p.grad is not None for p in overlay.copies.parameters())
        assert all((p.grad is not None) == (moves or straight) for p in overlay.policy.parameters())


@pytest.mark.parametrize("choice", CHOICES)
def test_a_policy_finds_who_needs_what(choice):
    """Users whose last item is even answer as the backbone would, the others as the copy: only the policy learns."""
    model = one_more("gru4rec", choice, gamma=0.0, top=1, warmup=0.0)
    overlay, head = model.overlays["buy"], model.heads["buy"]
    nn.init.zeros_(overlay.policy.out.weight)
    nn.init.zeros_(overlay.policy.out.bias)
    head.table.data = 2 * torch.randn(head.table.shape, generator=torch.Generator().manual_seed(3))
    data = members.batch(5, size=400, length=3)
    group = data.items.gather(1, data.lengths[:, None] - 1)[:, 0] % 2  # (B,)
    with torch.no_grad():
        ways = [
            head.score(overlay.read(model.backbone, data, lambda z, a=a: torch.full(z.shape[:2], a))[0]).argmax(1)
            for a in (0.0, 1.0)
        ]
    tells = ways[0] != ways[1]
    answers = torch.where(group == 1, ways[1], ways[0])
    data = Batch(data.items, data.lengths, None, None, answers, torch.arange(401))
    optimizer = torch.optim.Adam(overlay.policy.parameters(), lr=0.01)
    rng = torch.Generator().manual_seed(7)
    for step in range(120):
        optimizer.zero_grad()
        model.method.loss(model, "buy", data, rng, step / 120).backward()
        optimizer.step()
    with torch.no_grad():
        right = (model.score(data, "buy").argmax(1) == answers)[tells].float().mean()
    assert right > 0.8  # one half would be chance


# -- what is promised and what is refused ---


def test_a_later_next_item_task_is_refused():
    model = members.new_model("sasrec", "uaf")
    members.learn(model, "watch", "next_item")
    with pytest.raises(SettingsError, match="uaf cannot learn again, a next_item task after the first"):
        model.add(members.card("again", "next_item"), torch.Generator())


@pytest.mark.parametrize("choice", CHOICES)
def test_copies_and_policy_move_and_the_backbone_stays(choice):
    model = members.new_model("nextitnet", "uaf", choice=choice)
    members.learn(model, "watch", "next_item")
    before = {n: t.clone() for n, t in model.backbone.state_dict().items()}
    members.learn(model, "buy", "item", seed=1)
    assert all(torch.equal(t, before[n]) for n, t in model.backbone.state_dict().items())
    copies = model.overlays["buy"].copies.state_dict()
    sites = {f"{s}.{n}": p for s, layer in model.backbone.sites().items() for n, p in layer.named_parameters()}
    assert all(not torch.equal(copies[name], sites[name]) for name in copies)
    assert bool(model.overlays["buy"].policy.out.weight.any())


def test_the_promise_would_break_if_the_backbone_moved(monkeypatch):
    model, data = members.new_model("sasrec", "uaf"), members.batch(9)
    members.learn(model, "watch", "next_item")
    members.learn(model, "buy", "item", seed=1)
    monkeypatch.setattr(UAF, "trains", lambda self, model, task, stage: everything(model, task))
    with torch.inference_mode():
        before = model.score(data, "buy")
    members.learn(model, "like", "item", seed=2)
    with torch.inference_mode():
        assert not torch.equal(model.score(data, "buy"), before)
