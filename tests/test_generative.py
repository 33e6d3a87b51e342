import itertools
import math
import pickle

import numpy as np
import pytest
import torch as th

from sb3_pgr.common.optimizers import clipped
from sb3_pgr.generative.config import LEAN, PAPER, generator_config
from sb3_pgr.generative.denoiser import PaperDenoiser, ResidualDenoiser
from sb3_pgr.generative.discrete_rewards import RewardHead
from sb3_pgr.generative.dynamics import DynamicsHead
from sb3_pgr.generative.edm import EDM, HeunSampler
from sb3_pgr.generative.ema import WarmupEMA
from sb3_pgr.generative.generator import GeneratorDivergedError, TransitionGenerator
from sb3_pgr.generative.layout import TransitionLayout
from sb3_pgr.generative.normalizers import MinMaxCondition, MinMaxNormalizer, RankCondition, StandardNormalizer
from sb3_pgr.generative.termination import TerminationHead

TINY = dict(
    denoiser_kwargs=dict(width=32, n_blocks=1),
    train_steps=150,
    batch_size=128,
    sigma_start=None,
    sampler=dict(n_steps=10),
    delta=True,
    precision="fp32",
)


def n_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_paper_preset_is_the_official_one():
    assert n_parameters(PaperDenoiser(41)) == 26_243_625
    assert PAPER.sampler.n_evaluations(PAPER.cfg_scale) == 383
    assert sum(gamma > 0 for gamma in PAPER.sampler.gammas(EDM().schedule(128)[:-1])) == 96
    assert max(PAPER.sampler.gammas([1.0])) == pytest.approx(math.sqrt(2) - 1)
    assert (PAPER.train_steps, PAPER.batch_size, PAPER.learning_rate, PAPER.warm_start) == (100_000, 256, 3e-4, False)


def test_lean_preset_is_lean():
    config = generator_config(dict(sigma_start=None, sampler=dict(n_steps=10)))  # from pure noise it takes more levels
    assert config.sampler.n_evaluations(config.cfg_scale) <= 40
    assert LEAN.sampler.n_evaluations(LEAN.cfg_scale) <= 40
    assert n_parameters(ResidualDenoiser(170, **LEAN.denoiser_kwargs)) <= 3_000_000  # quadruped-walk


def test_average_is_a_copy_then_slow():
    """0.995 from about step 2930 on, as the library that the official code uses."""
    network = th.nn.Linear(2, 2)
    ema = WarmupEMA(network)
    decays = []
    for _ in range(3_200):
        with th.no_grad():
            network.weight.add_(0.01)
        before = ema.network.weight.clone()
        ema.update(network)
        decays.append(ema.current_decay())
        if ema.step % 10:
            assert th.equal(before, ema.network.weight)
        else:
            expected = before + (1 - decays[-1]) * (network.weight - before)
            th.testing.assert_close(ema.network.weight, expected)
    assert decays[:101] == [0.0] * 101
    assert next(step for step, decay in enumerate(decays) if decay == 0.995) == pytest.approx(2930, abs=2)


def reference_denoise(network, x, sigma, condition, sd=1.0):
    """Equation 7 with table 1, row by row in float64."""
    rows = []
    for i in range(len(x)):
        s = float(sigma[i])
        c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / math.sqrt(s**2 + sd**2)
        inputs = (x[i : i + 1] / math.sqrt(s**2 + sd**2)).float()
        output = network(inputs, th.tensor([math.log(s) / 4]), None if condition is None else condition[i : i + 1]).double()
        rows.append(c_skip * x[i].double() + c_out * output[0])
    return th.stack(rows)


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("network", [ResidualDenoiser(5, 16, 1), PaperDenoiser(5, 8, 2, 8)], ids=["residual", "paper"])
def test_denoiser_and_loss(network, conditioned):
    th.manual_seed(0)
    for parameter in network.parameters():
        th.nn.init.normal_(parameter, std=0.3)
    x, normal = th.randn(6, 5), th.randn(6, 6)
    condition = th.tensor([[0.1], [math.nan], [-1.0], [1.0], [0.5], [math.nan]]) if conditioned else None
    edm = EDM()
    sigma = (-1.2 + 1.2 * normal[:, -1].double()).exp()
    noised = x + sigma[:, None].float() * normal[:, :-1]
    denoised = reference_denoise(network, noised, sigma, condition)
    th.testing.assert_close(edm.denoise(network, noised, sigma.float(), condition).double(), denoised, rtol=1e-5, atol=1e-5)
    shared = edm.denoise(network, noised, th.tensor([0.7]), condition)
    th.testing.assert_close(shared, edm.denoise(network, noised, th.full((6,), 0.7), condition), rtol=1e-5, atol=1e-5)
    weight = (sigma**2 + 1) / sigma**2
    expected = weight * (denoised - x.double()).pow(2).mean(1)
    th.testing.assert_close(edm.loss(network, x, condition, normal).double(), expected, rtol=1e-4, atol=1e-5)
    if conditioned:  # a row without a condition is a row of the unconditional model
        free = edm.denoise(network, noised, sigma.float(), None)
        given = edm.denoise(network, noised, sigma.float(), condition)
        assert th.allclose(free[1], given[1], atol=1e-6) and not th.allclose(free[0], given[0], atol=1e-4)


def test_schedule():
    sigmas = EDM().schedule(128)
    assert sigmas[0] == pytest.approx(80) and sigmas[-2] == pytest.approx(0.002) and sigmas[-1] == 0
    i = 40
    assert sigmas[i] == pytest.approx((80 ** (1 / 7) + i / 127 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7)
    assert EDM().schedule(1) == [pytest.approx(80), 0.0]
    assert EDM().schedule(5, 0.5)[0] == pytest.approx(0.5)


class Gaussian(th.nn.Module):
    """The exact denoiser's network for data N(mean, 0.5^2), whose mean is the condition (0 without one)."""

    def forward(self, x, noise, condition):
        sigma = (4 * noise).exp()[:, None]
        mean = 0.0 if condition is None else condition
        raw = x * (sigma**2 + 1).sqrt()
        denoised = (0.25 * raw + sigma**2 * mean) / (0.25 + sigma**2)
        return (denoised - raw / (sigma**2 + 1)) * (sigma**2 + 1).sqrt() / sigma


@pytest.mark.parametrize("churn", [0.0, 40.0])
@pytest.mark.parametrize("scale, mean", [(0.0, 0.0), (1.0, 2.0), (1.5, 3.0)])
def test_sampler_on_a_known_distribution(churn, scale, mean):
    """Guidance of a Gaussian towards a shifted one of the same width moves its mean by scale times the shift."""
    generator = th.Generator().manual_seed(0)
    x = 80 * th.randn(20_000, 1, generator=generator)
    sampler = HeunSampler(n_steps=40, s_churn=churn)
    drawn = sampler.sample(EDM(), Gaussian(), x, 80.0, th.full((20_000, 1), 2.0), scale, generator)
    assert drawn.mean().item() == pytest.approx(mean, abs=0.03)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.03)


def reference_sampler(denoise, x, sigmas, s_churn, s_tmin, s_tmax, s_noise, noises):
    """EDM, algorithm 2, with one noise for every raised level."""
    n, noises = len(sigmas) - 1, iter(noises)
    for now, after in itertools.pairwise(sigmas):
        gamma = min(s_churn / n, math.sqrt(2) - 1) if s_tmin <= now <= s_tmax else 0.0
        level = now + gamma * now
        if gamma > 0:
            x = x + (level * level - now * now) ** 0.5 * s_noise * next(noises)
        d = (x - denoise(x, level)) / level
        moved = x + (after - level) * d
        if after != 0:
            d_after = (moved - denoise(moved, after)) / after
            moved = x + (after - level) * (d / 2 + d_after / 2)
        x = moved
    return x


@pytest.mark.parametrize("s_churn, s_noise", [(0.0, 1.0), (4.0, 1.003), (4.0, 1.4), (80.0, 0.9)])
def test_sampler_against_the_algorithm(s_churn, s_noise):
    sampler = HeunSampler(n_steps=9, s_churn=s_churn, s_tmin=0.1, s_tmax=30.0, s_noise=s_noise)
    x = 80 * th.randn(6, 3, generator=th.Generator().manual_seed(1))
    drawn = sampler.sample(EDM(), Gaussian(), x, 80.0, th.full((6, 1), 2.0), 1.0, th.Generator().manual_seed(2))
    generator = th.Generator().manual_seed(2)
    noises = [th.randn(6, 3, generator=generator).double() for _ in range(9)]
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    sigmas = [(high + i / 8 * (low - high)) ** 7 for i in range(9)] + [0.0]

    def denoise(x, sigma):  # of N(2, 0.5^2), exactly
        return (0.25 * x + sigma**2 * 2.0) / (0.25 + sigma**2)

    expected = reference_sampler(denoise, x.double(), sigmas, s_churn, 0.1, 30.0, s_noise, noises)
    th.testing.assert_close(drawn.double(), expected, rtol=1e-4, atol=1e-4)


def test_evaluations_are_counted():
    class Counter(th.nn.Module):
        calls = 0

        def forward(self, x, noise, condition):
            Counter.calls += 1
            return x

    for both, scale in ((True, 2.0), (False, 2.0), (True, 1.0), (True, 0.0)):
        sampler, Counter.calls = HeunSampler(n_steps=7, guide_both_halves=both), 0
        sampler.sample(EDM(), Counter(), th.randn(2, 3), 80.0, th.zeros(2, 1), scale, th.Generator())
        assert Counter.calls == sampler.n_evaluations(scale)


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("n_actions", [0, 3])
@pytest.mark.parametrize("terminals", [False, True])
def test_layout_round_trip(n_actions, terminals, delta):
    layout = TransitionLayout(4, 1 if n_actions else 2, n_actions, terminals, delta)
    parts = {
        "observations": th.randn(9, 4),
        "actions": th.randint(3, (9, 1)) if n_actions else th.rand(9, 2),
        "rewards": th.randn(9, 1),
        "next_observations": th.randn(9, 4),
        "dones": th.randint(2, (9, 1)).float(),
    }
    vectors = layout.join(parts)
    assert vectors.shape == (9, layout.dim)
    for name, value in layout.split(vectors + 0.01 * th.rand_like(vectors)).items():
        expected = th.zeros(9, 1) if name == "dones" and not terminals else parts[name]
        th.testing.assert_close(value, expected, rtol=0, atol=0.03)


def test_normalizers():
    data = th.randn(100, 3) * th.tensor([1.0, 10.0, 0.0]) + 5
    for kind in (MinMaxNormalizer, StandardNormalizer):
        normalizer = kind.fit(data)
        normalized = normalizer.normalize(data)
        assert normalized.isfinite().all()
        th.testing.assert_close(normalizer.denormalize(normalized), data, rtol=1e-4, atol=1e-4)
        if kind is MinMaxNormalizer:
            assert normalized.abs().max() <= 1 + 1e-6
    for constant in (0.0, 100.3, 3000.1, 1e6 + 0.3):  # exactly 0, whatever its size
        for kind in (MinMaxNormalizer, StandardNormalizer):
            data = th.full((100, 1), constant)
            normalizer = kind.fit(data)
            assert (normalizer.normalize(data) == 0).all() and th.equal(normalizer.denormalize(th.zeros(100, 1)), data)
    assert MinMaxCondition(th.full((5,), 3000.1)).normalize(th.full((5,), 3000.1)).isfinite().all()
    values = th.tensor([3.0, 1.0, 1000.0, 2.0])
    assert RankCondition(values).normalize(values).tolist() == [0.25, -0.75, 0.75, -0.25]
    assert RankCondition(values).normalize(th.tensor([0.0, 5000.0])).tolist() == [-1.0, 1.0]
    th.testing.assert_close(MinMaxCondition(values).normalize(values)[[1, 2]], th.tensor([-1.0, 1.0]), rtol=1e-4, atol=1e-4)


def toy(n=2000):
    """Dynamics s' = s + 0.1 a, reward s_0."""
    generator = th.Generator().manual_seed(0)
    s, a = th.randn(n, 2, generator=generator), 2 * th.rand(n, 2, generator=generator) - 1
    return dict(observations=s, actions=a, rewards=s[:, :1], next_observations=s + 0.1 * a, dones=(s[:, :1] > 1).float())


def places_of(data):
    return [data[name] for name in ("observations", "actions", "next_observations")]


def test_generator_learns_and_is_guided():
    data = toy()
    generator = TransitionGenerator(2, 2, config=TINY | dict(train_steps=400, learning_rate=3e-3))
    before = th.get_rng_state(), np.random.get_state()[1].copy()
    report = generator.fit(data, data["rewards"].squeeze(1))
    plain = generator.sample(1000)
    top = generator.sample(1000, th.full((1000,), 1.5))
    assert th.equal(before[0], th.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    assert 0 < report["loss"] < 1
    assert abs(plain["rewards"].mean()) < 0.3 and top["rewards"].mean() > 0.8
    step = plain["next_observations"] - plain["observations"]
    assert (step - 0.1 * plain["actions"]).pow(2).mean().sqrt() < 0.05
    assert set(top["dones"].unique().tolist()) <= {0.0, 1.0}


def test_same_seed_same_transitions_in_any_chunks():
    data = toy(300)
    drawn = []
    for limit in (2**28, 2**28, 16 * 64 * 20):
        generator = TransitionGenerator(2, 2, config=TINY | dict(train_steps=20, memory_limit=limit), seed=4)
        generator.fit(data, data["rewards"].squeeze(1))
        seen = []
        drawn.append(generator.sample(50, progress=lambda done, n, seen=seen: seen.append(done))["observations"])
        assert seen == ([50] if limit == 2**28 else [20, 40, 50])
    assert th.equal(drawn[0], drawn[1]) and drawn[2].shape == (50, 2)


def test_starting_from_real_rows_stays_near_them():
    """SDEdit: a low level of noise changes a row little, and the more the higher it is."""
    data, moved = toy(500), []
    start = {name: rows[:200] for name, rows in data.items()}
    for sigma in (0.05, 0.5, 5.0):
        generator = TransitionGenerator(2, 2, config=TINY | dict(sigma_start=sigma))
        generator.fit(data, data["rewards"].squeeze(1))
        drawn = generator.sample(200, start=start)
        moved.append((drawn["observations"] - start["observations"]).norm(dim=1).mean().item())
    assert moved[0] < 0.2 < moved[1] < moved[2] and moved[0] > 0
    with pytest.raises(ValueError, match=r"sigma_start=5\.0 needs real transitions"):
        generator.sample(200)


@pytest.mark.parametrize("warm_start", [True, False])
def test_state_continues_exactly(warm_start):
    """Another generator with the same state draws and fits on as the first does."""
    data = toy(300)
    first, second = (
        TransitionGenerator(2, 2, config=TINY | dict(train_steps=20, warm_start=warm_start), seed=s) for s in (0, 1)
    )
    first.fit(data, data["rewards"].squeeze(1))
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    for _ in range(2):
        ours, theirs = first.sample(20), second.sample(20)
        assert all(th.equal(ours[name], theirs[name]) for name in ours)
        assert first.fit(data, data["rewards"].squeeze(1))["loss"] == second.fit(data, data["rewards"].squeeze(1))["loss"]


def test_gradients_are_clipped_to_a_common_norm(monkeypatch):
    """What the optimiser is given of two parameters: no longer than the bound together, in the direction it had."""
    first, second = th.tensor([3.0, 0.0]), th.tensor([[4.0]])
    short = [g / 10 for g in (first, second)]
    for given, bound, scale in (((first, second), 1.0, 1 / 5), ((first, second), 10.0, 1.0), (short, 1.0, 1.0)):
        for gradient, bounded in zip(given, clipped(given, bound), strict=True):
            th.testing.assert_close(bounded, scale * gradient, rtol=1e-5, atol=0)
    norms = {}
    for bound in (0.01, 1e9):
        taken = norms[bound] = []
        generator = TransitionGenerator(2, 2, config=TINY | dict(train_steps=5, grad_clip=bound), seed=0)

        def step(optimizer, gradients, taken=taken):
            taken.append(th.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm().item())

        monkeypatch.setattr("sb3_pgr.generative.generator.apply_gradients", step)
        generator.fit(toy(50), None)
    assert min(norms[1e9]) > 0.02 and norms[0.01] == pytest.approx([0.01] * 5, rel=1e-3)


def test_going_on_takes_fewer_steps():
    data, steps = toy(50), []
    generator = TransitionGenerator(2, 2, config=TINY | dict(train_steps=200, warm_steps=100))
    for _ in range(2):
        generator.fit(data, None, lambda done, total: steps.append((done, total)))
    assert steps == [(100, 200), (200, 200), (100, 100)]


def test_a_fit_after_a_diverged_one_is_a_whole_one():
    data, steps = toy(50), []
    generator = TransitionGenerator(2, 2, config=TINY | dict(train_steps=200, warm_steps=100))
    with pytest.raises(GeneratorDivergedError):
        generator.fit({**data, "rewards": data["rewards"] * float("nan")}, None)
    generator.fit(data, None, lambda done, total: steps.append(total))
    assert steps == [200, 200]


def test_what_draws_keeps_up_with_what_is_trained():
    """After a short fit on other rows, the averaged network is as good on them as the network itself."""
    data, moved = toy(), toy()
    moved["next_observations"] = moved["observations"] - moved["actions"]
    generator = TransitionGenerator(2, 2, config=TINY | dict(train_steps=600, warm_steps=300, learning_rate=3e-3))
    generator.fit(data, None)
    generator.fit(moved, None)
    x = generator.normalizer.normalize(generator.layout.join(moved))
    hidden, normal = th.full((len(x), 1), float("nan")), th.randn(len(x), x.shape[1] + 1)
    with th.no_grad():
        trained, average = (
            generator.config.edm.loss(network.eval(), x, hidden, normal).mean()
            for network in (generator.network, generator.ema.network)
        )
    assert average == pytest.approx(float(trained), rel=0.03)


def test_without_relevance_the_unconditional_model_sees_every_row():
    """It is the only one that draws then; dropping a quarter of the conditions would leave it a quarter of the rows."""
    generator, given = TransitionGenerator(2, 2, config=TINY | dict(train_steps=20)), []
    train = generator._train
    generator._train = lambda x, condition, normal: given.append(condition) or train(x, condition, normal)
    generator.fit(toy(50), None)
    assert th.cat(given).isnan().all()
    generator.fit(toy(50), th.arange(50.0))
    assert 0.6 < th.cat(given[20:]).isfinite().float().mean() < 0.9


def test_dynamics_head_learns_the_step():
    data = toy()
    head = DynamicsHead(2, 2, hidden_dim=32, train_steps=600)
    assert head.fit(data) < 0.01
    next_obs, rewards = head.outcome(data["observations"], data["actions"])
    assert (next_obs - data["next_observations"]).abs().mean() < 0.02
    assert (rewards - data["rewards"]).abs().mean() < 0.1
    other = DynamicsHead(2, 2, hidden_dim=32, seed=5)
    other.load_state_dict(head.state_dict())
    assert th.equal(other.outcome(data["observations"], data["actions"])[0], next_obs)


@pytest.mark.parametrize("kind", [DynamicsHead, RewardHead, TerminationHead])
def test_heads_go_on_from_what_they_knew(kind):
    """A robot falls and numbers spread: what the head says of the earlier rows is, before it learns from others, the same."""
    data = toy(1_000)
    data["rewards"] = (data["rewards"] > 1).float()
    head = kind(2, 2, hidden_dim=16, train_steps=100)
    head.fit(data)
    places = places_of(data)

    def answers():
        if kind is DynamicsHead:
            return th.cat(head.outcome(*places[:2]), 1)
        if kind is RewardHead:
            return head.network(head.inputs.normalize(th.cat(places, 1))).detach()
        inputs = head._inputs(*places)
        inputs[:, -4:] = 0  # which numbers lie beyond all places so far has changed
        return head.network(inputs).detach()

    before, scale = answers(), head.inputs.scale.clone()
    far = {name: 30 * rows + 5 for name, rows in toy(100).items()} | {"dones": th.zeros(100, 1), "rewards": th.zeros(100, 1)}
    head.learning_rate = 0.0
    head.fit({name: th.cat([rows, far[name]]) for name, rows in data.items()})
    assert (head.inputs.scale > 5 * scale)[:2].all()
    th.testing.assert_close(answers(), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [DynamicsHead, RewardHead, TerminationHead])
def test_heads_start_anew_after_divergence(kind):
    data, head = toy(100), kind(2, 2, hidden_dim=8, train_steps=5)
    data["rewards"] = data["dones"]
    spoilt = {**data, "next_observations": data["next_observations"] * float("nan")}
    with pytest.raises(GeneratorDivergedError, match=f"{kind.name}'s loss is nan"):
        head.fit(spoilt)
    assert math.isfinite(head.fit(data))


@pytest.mark.parametrize("n_actions", [0, 3])
def test_termination_head_learns_where_episodes_end(n_actions):
    data = toy(4_000)
    data["dones"] = (data["next_observations"][:, :1] > 1.5).float()  # 7 %
    if n_actions:
        data["actions"] = th.randint(3, (4_000, 1))
    head = TerminationHead(2, 2, n_actions)
    head.fit(data)
    places = data["observations"], data["actions"], data["next_observations"]
    before = th.get_rng_state()
    drawn, real = head.draw(*places) > 0, data["dones"] > 0
    assert th.equal(before, th.get_rng_state())
    assert drawn[real].float().mean() > 0.9 and real[drawn].float().mean() > 0.9
    other = TerminationHead(2, 2, n_actions, seed=5)
    other.load_state_dict(head.state_dict())
    assert th.equal(other.draw(*places), head.draw(*places))


@pytest.mark.parametrize("n_actions", [0, 3])
def test_reward_head_knows_a_small_goal(n_actions):
    """A reward of 1 within a goal of 2 % of all places, found in other rows, where regression of as many steps smears it."""
    data, others = toy(8_000), {name: rows[8_000:] for name, rows in toy(12_000).items()}
    for rows in (data, others):
        rows["rewards"] = (rows["next_observations"].norm(dim=1, keepdim=True) < 0.2).float()
        if n_actions:
            rows["actions"] = th.randint(3, rows["rewards"].shape, generator=th.Generator().manual_seed(0))
    head = RewardHead(2, 2, n_actions, train_steps=2_000)
    assert head.fit(data) < 0.1
    before = th.get_rng_state()
    drawn, true = head.draw(*places_of(others)), others["rewards"]
    assert th.equal(before, th.get_rng_state()) and drawn.shape == true.shape
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert drawn[true == 1].mean() > 0.75 and true[drawn == 1].mean() > 0.8
    regression = DynamicsHead(2, 2, n_actions, train_steps=2_000)
    regression.fit(data)
    smeared = regression.outcome(*places_of(others)[:2])[1].clamp(0, 1)
    assert smeared[true == 1].mean() < 0.7 and smeared[true == 1].sum() / smeared.sum() < 0.6
    other = RewardHead(2, 2, n_actions, seed=5)
    other.load_state_dict(head.state_dict())
    assert th.equal(other.draw(*places_of(others)), head.draw(*places_of(others)))


def test_rewards_that_come_by_chance_keep_their_rates():
    data, rates = toy(4_000), th.tensor([0.7, 0.05, 0.25])
    values = th.tensor([-1.0, 0.5, 3.0])
    data["rewards"] = values[rates.multinomial(4_000, True, generator=th.Generator().manual_seed(1))].unsqueeze(1)
    head = RewardHead(2, 2, hidden_dim=8, train_steps=200)
    head.fit(data)
    drawn = head.draw(*places_of(data))
    for value in values:
        assert (drawn == value).float().mean() == pytest.approx((data["rewards"] == value).float().mean().item(), abs=0.03)


def test_number_of_different_rewards_decides():
    data, head = toy(1_000), RewardHead(2, 2, max_values=3, hidden_dim=8, train_steps=20)
    assert head.draw(*places_of(data)) is None
    kinds = {n: (th.arange(1_000) % n).float().unsqueeze(1) for n in (1, 2, 3, 4)}
    for n in (1, 2, 3, 4, 2):
        loss = head.fit(data | {"rewards": 5 - kinds[n]})
        drawn = head.draw(*places_of(data))
        assert (loss is None) == (n in (1, 4)) and (drawn is None) == (n == 4)
        if n < 4:
            assert set(drawn.unique().tolist()) == {5.0 - i for i in range(n)}
            other = RewardHead(2, 2, hidden_dim=8)
            other.load_state_dict(head.state_dict())
            assert th.equal(other.draw(*places_of(data)), head.draw(*places_of(data)))
    few = {name: rows[:19] for name, rows in data.items()}
    assert head.fit(few | {"rewards": kinds[2][:19]}) is None and head.draw(*places_of(few)) is None


def test_ends_close_behind_a_bound_are_found_in_other_rows():
    """A body that falls below a height: a few hundred ends, just behind it; other rows are near them, not the same."""
    random = th.Generator().manual_seed(0)

    def rows(n):
        height = 1 + 0.5 * th.rand(n, 1, generator=random)
        height[: n // 50] = 0.97 + 0.03 * th.rand(n // 50, 1, generator=random)
        others = th.randn(n, 40, generator=random)
        data = {"observations": others[:, :17], "actions": others[:, 17:23], "next_observations": others[:, 23:]}
        data["observations"][:, :1] = 1.2
        data["next_observations"][:, :1] = height
        return data | {"dones": (height < 1).float()}

    head = TerminationHead(17, 6)
    head.fit(rows(20_000))
    others = rows(20_000)
    drawn, true = head.draw(*(others[name] for name in ("observations", "actions", "next_observations"))), others["dones"]
    assert ((drawn == 0) & (true == 1)).sum() < 0.02 * true.sum() and ((drawn == 1) & (true == 0)).sum() < 0.1 * true.sum()


def test_heads_of_earlier_versions_draw_as_they_did():
    data = toy(2_000)
    data["dones"] = (data["next_observations"][:, :1] > 1.5).float()
    head, places = (
        TerminationHead(2, 2, train_steps=50),
        [data[name] for name in ("observations", "actions", "next_observations")],
    )
    head.fit(data)
    earlier = {name: value for name, value in head.state_dict().items() if name in ("network", "inputs", "random", "rate")}
    earlier["network"] = earlier["network"] | {"0.weight": earlier["network"]["0.weight"][:, :6]}
    other = TerminationHead(2, 2, train_steps=5, seed=5)
    other.fit(data)
    other.load_state_dict(earlier)
    assert other.high.isinf().all() and not other.sure_above.any()
    assert th.equal(other.network[0].weight, th.nn.functional.pad(earlier["network"]["0.weight"], (0, 4)))
    assert 0 < other.draw(*places).mean() < 1 and other.rate == head.rate
    with pytest.raises(RuntimeError, match="size mismatch"):
        TerminationHead(3, 2).load_state_dict(earlier)


def test_rates_of_random_ends_are_kept():
    data = toy(4_000)
    data["dones"] = (th.rand(4_000, 1, generator=th.Generator().manual_seed(1)) < 0.1).float()
    head = TerminationHead(2, 2, hidden_dim=8, train_steps=200)
    head.fit(data)
    drawn = head.draw(data["observations"], data["actions"], data["next_observations"])
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and drawn.mean() == pytest.approx(data["dones"].mean().item(), abs=0.03)
    for value in (0.0, 1.0):
        assert head.fit({**data, "dones": th.full((4_000, 1), value)}) is None
        assert (head.draw(data["observations"], data["actions"], data["next_observations"]) == value).all()


def test_divergence_is_told():
    data = toy(100)
    data["rewards"][3] = float("nan")
    generator = TransitionGenerator(2, 2, config=TINY)
    with pytest.raises(GeneratorDivergedError, match="loss is nan"):
        generator.fit(data, th.zeros(100))


@pytest.mark.parametrize(
    "config, message",
    [
        ("medium", "generator='medium'"),
        (dict(preset="tiny"), "generator preset='tiny'"),
        (dict(n_layers=3), r"no setting \['n_layers'\]"),
        (dict(sampler=12), "sampler=12 must be a mapping"),
        (dict(denoiser="unet"), "denoiser='unet'"),
        (dict(normalizer="rank"), "normalizer='rank'"),
        (dict(condition="log"), "condition='log'"),
        (dict(train_steps=0), "train_steps=0 must be a whole number"),
        (dict(reward_values=-1), "reward_values=-1 must be a whole number"),
        (dict(reward_values=2.5), "reward_values=2.5 must be a whole number"),
        (dict(warm_steps=1e3), r"warm_steps=1000\.0 must be a whole number"),
        (dict(cfg_dropout=1.0), "cfg_dropout=1.0"),
        (dict(cfg_dropout=0.0), "cfg_dropout=0 goes with cfg_scale=1"),
        (dict(sigma_start=0.001), "sigma_start=0.001 must be above 0.002"),
        (dict(precision="fp8"), "precision='fp8'"),
        (dict(sampler=dict(n_steps=0)), "n_steps=0 must be a whole number"),
        (dict(sampler=dict(steps=3)), "sampler: .*'steps'"),
        (dict(denoiser_kwargs=dict(wdth=3)), "denoiser_kwargs: .*'wdth'"),
        (dict(learning_rate=-1), "learning_rate=-1 must be above 0"),
        (dict(ema_decay=2.0), r"ema_decay=2\.0 must be"),
        (dict(memory_limit=100), "memory_limit=100 is below the .* bytes that one row takes"),
    ],
    ids=str,
)
def test_refusals(config, message):
    with pytest.raises(ValueError, match=message):
        TransitionGenerator(2, 2, config=config)


def test_settings_by_name():
    config = generator_config(dict(preset="paper", sampler=dict(n_steps=16), train_steps=7))
    assert (config.sampler.n_steps, config.sampler.s_churn, config.train_steps, config.denoiser) == (16, 80.0, 7, "paper")
    assert generator_config(dict(denoiser_kwargs=dict(width=64))).denoiser_kwargs == dict(width=64, n_blocks=3)
    assert generator_config(dict(denoiser="paper")).denoiser_kwargs == {}
