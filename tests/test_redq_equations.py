"""REDQ against a plain float64 loop over critics, written from the paper's algorithm 1 (Chen et al. 2021)."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_pgr import REDQ

N, M, BATCH, OBS, ACT = 5, 2, 16, 4, 3
GAMMA, TAU, LR = 0.97, 0.05, 1e-3


class Spaces(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (OBS,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (ACT,), np.float32)

    def reset(self, seed=None, options=None):
        return np.zeros(OBS, np.float32), {}


class LoopReference:
    """Separate networks, one at a time, and the density of the squashed Gaussian from torch.distributions."""

    def __init__(self, model: REDQ):
        self.critics = [critic_network(model.critic, i) for i in range(N)]
        self.targets = [critic_network(model.critic_target, i) for i in range(N)]
        self.actor = copy.deepcopy(model.actor)
        self.log_alpha = model.log_ent_coef.detach().clone().requires_grad_(True)

    def act(self, obs, noise):
        latent = self.actor.latent_pi(obs)
        mean, std = self.actor.mu(latent), self.actor.log_std(latent).clamp(-20, 2).exp()
        gaussian = th.distributions.Normal(mean, std)
        squashed = th.distributions.TransformedDistribution(gaussian, th.distributions.TanhTransform(cache_size=1))
        action = th.tanh(mean + std * noise)
        return action, squashed.log_prob(action).sum(1)

    def critic_losses(self, batch, mode):
        with th.no_grad():
            next_action, log_prob = self.act(batch["next_observations"], batch["next_noise"])
            pairs = th.cat([batch["next_observations"], next_action], 1)
            chosen = batch["subset"].tolist() if mode == "min" else range(N)
            values = [self.targets[i](pairs)[:, 0] for i in chosen]
            if mode == "min":
                value = values[0]
                for other in values[1:]:
                    value = th.minimum(value, other)
            else:
                value = sum(values) / len(values)
            soft = value - self.log_alpha.exp() * log_prob
            y = batch["rewards"][:, 0] + GAMMA * (1 - batch["dones"][:, 0]) * soft
        pairs = th.cat([batch["observations"], batch["actions"]], 1)
        return [((q(pairs)[:, 0] - y) ** 2).mean() for q in self.critics]

    def actor_loss(self, batch):
        action, log_prob = self.act(batch["observations"], batch["noise"])
        pairs = th.cat([batch["observations"], action], 1)
        mean_q = sum(q(pairs)[:, 0] for q in self.critics) / N
        return (self.log_alpha.exp().detach() * log_prob - mean_q).mean(), log_prob.detach()


def critic_network(critic, i):
    """Member i of the ensemble as a network of its own."""
    layers = []
    for layer in critic.ensemble.layers:
        if hasattr(layer, "weight"):
            linear = nn.Linear(*layer.weight.shape[1:], dtype=th.float64)
            linear.weight.data = layer.weight.data[i].T.clone()
            linear.bias.data = layer.bias.data[i, 0].clone()
            layers.append(linear)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def stacked(networks, attribute):
    """One tensor per layer, as the ensemble keeps them."""
    result = []
    for layers in zip(*networks, strict=True):
        if isinstance(layers[0], nn.Linear):
            result.append(th.stack([pick(layer.weight, attribute).T for layer in layers]))
            result.append(th.stack([pick(layer.bias, attribute)[None] for layer in layers]))
    return result


def pick(parameter, attribute):
    return parameter.grad if attribute == "grad" else parameter.data


def make_batch(dtype=th.float64, seed=0):
    rng = np.random.default_rng(seed)
    fields = {
        "observations": rng.normal(size=(BATCH, OBS)),
        "next_observations": rng.normal(size=(BATCH, OBS)),
        "actions": rng.uniform(-1, 1, (BATCH, ACT)),
        "rewards": rng.normal(size=(BATCH, 1)),
        "dones": (rng.random((BATCH, 1)) < 0.3).astype(float),
        "next_noise": rng.normal(size=(BATCH, ACT)),
        "noise": rng.normal(size=(BATCH, ACT)),
    }
    batch = {name: th.as_tensor(value, dtype=dtype) for name, value in fields.items()}
    batch["subset"] = th.as_tensor(rng.permutation(N)[:M])
    return batch


@pytest.fixture
def double(monkeypatch):
    """SB3 casts observations to float32; here everything is float64."""
    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda obs, *args, **kwargs: obs)


def make_model(mode="min", **kwargs):
    kwargs = {"policy_kwargs": dict(net_arch=[8, 8]), "ent_coef": "auto_0.5"} | kwargs
    return REDQ(
        "MlpPolicy", Spaces(), n_critics=N, n_target_critics=M, target_mode=mode, gamma=GAMMA, tau=TAU,
        learning_rate=LR, policy_delay=1, buffer_size=10, seed=0, device="cpu", **kwargs,
    )  # fmt: skip


def to_double(model):
    model.policy.double()
    # Targets that differ from the critics, so that a mix-up shows.
    for parameter in model.critic_target.parameters():
        parameter.data += 0.1 * th.randn_like(parameter)
    model.log_ent_coef.data = model.log_ent_coef.data.double()
    return model


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        th.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", ["min", "mean"])
def test_critic_loss_and_gradients(double, mode):
    model, batch = to_double(make_model(mode)), make_batch()
    reference = LoopReference(model)
    losses = reference.critic_losses(batch, mode)
    loss, *_ = model._critic_loss(batch)
    assert_close([loss], [sum(losses)])
    loss.backward()
    sum(losses).backward()
    assert_close([parameter.grad for parameter in model.critic.parameters()], stacked(reference.critics, "grad"))
    assert all(parameter.grad is None for parameter in [*model.actor.parameters(), *model.critic_target.parameters()])


def test_actor_loss_and_gradients(double):
    model, batch = to_double(make_model()), make_batch()
    reference = LoopReference(model)
    loss, log_prob = model._actor_loss(batch)
    expected, expected_log_prob = reference.actor_loss(batch)
    assert_close([loss, log_prob], [expected, expected_log_prob])
    loss.backward()
    expected.backward()
    ours = [parameter.grad for parameter in model.actor.parameters()]
    assert_close(ours, [parameter.grad for parameter in reference.actor.parameters()])


def test_whole_update(double):
    """Order of the steps: critics, targets, actor through the new critics, temperature (algorithm 1, lines 6 to 11)."""
    model, batch = to_double(make_model()), make_batch()
    reference = LoopReference(model)
    critic_optimizers = [th.optim.Adam(network.parameters(), lr=LR) for network in reference.critics]
    actor_optimizer = th.optim.Adam(reference.actor.parameters(), lr=LR)
    alpha_optimizer = th.optim.Adam([reference.log_alpha], lr=LR)
    for seed in range(3):
        batch = make_batch(seed=seed)
        for loss, optimizer in zip(reference.critic_losses(batch, "min"), critic_optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for network, target in zip(reference.critics, reference.targets, strict=True):
            for parameter, slow in zip(network.parameters(), target.parameters(), strict=True):
                slow.data = (1 - TAU) * slow.data + TAU * parameter.data
        actor_optimizer.zero_grad()
        loss, log_prob = reference.actor_loss(batch)
        loss.backward()
        actor_optimizer.step()
        alpha_optimizer.zero_grad()
        (-(reference.log_alpha * (log_prob - ACT)).mean()).backward()
        alpha_optimizer.step()
        model._update(batch, True)
    assert_close([p.data for p in model.critic.parameters()], stacked(reference.critics, "data"))
    assert_close([p.data for p in model.critic_target.parameters()], stacked(reference.targets, "data"))
    assert_close([p.data for p in model.actor.parameters()], [p.data for p in reference.actor.parameters()])
    assert_close([model.log_ent_coef.data], [reference.log_alpha.data])


@pytest.mark.parametrize(
    "options, tolerance",
    [(dict(compile=True), 1e-5), (dict(precision="bf16"), 0.05), (dict(compile=True, precision="bf16"), 0.05)],
)
def test_other_modes_agree_with_eager(options, tolerance):
    """Losses, and the direction and length of each gradient; bfloat16 keeps 8 bits, so 0.4 % an operation."""
    eager, other, batch = make_model(), make_model(**options), make_batch(th.float32)
    for model in (eager, other):
        loss, *_ = model._compute_critic_loss(batch)
        loss.backward()
        model.critic_loss_value = loss.item()
        model.critic.requires_grad_(False)
        loss, *_ = model._compute_actor_loss(batch)
        loss.backward()
        model.actor_loss_value = loss.item()
    assert other.critic_loss_value == pytest.approx(eager.critic_loss_value, rel=tolerance)
    assert other.actor_loss_value == pytest.approx(eager.actor_loss_value, rel=tolerance, abs=tolerance)
    for name in ("critic", "actor"):
        pairs = zip(getattr(eager, name).parameters(), getattr(other, name).parameters(), strict=True)
        for a, b in pairs:
            assert b.grad.dtype == th.float32
            assert (a.grad - b.grad).norm() <= tolerance * a.grad.norm() + 1e-7


def test_subsets_are_random_and_without_replacement():
    model = make_model(learning_starts=0, gradient_steps=200)
    seen = []
    model._update = lambda batch, flag: seen.append(batch["subset"].tolist()) or {"loss": th.zeros(())}
    transition = (np.zeros((1, OBS)), np.zeros((1, OBS)), np.zeros((1, ACT)), np.zeros(1), np.zeros(1), [{}])
    model.replay_buffer.add(*transition)
    model.set_logger(Logger(None, []))
    model.train(2000, batch_size=2)
    assert len(seen) == 2000 and all(len(set(subset)) == M for subset in seen)
    counts = np.bincount(np.ravel(seen), minlength=N)
    assert abs(counts - 2000 * M / N).max() < 5 * np.sqrt(2000 * M / N)  # five standard deviations


@pytest.mark.parametrize("policy_delay, expected", [(1, 6), (3, 2), (20, 0)])
def test_policy_delay_counts_over_calls(policy_delay, expected):
    model = make_model()
    model.policy_delay = policy_delay
    model.set_logger(Logger(None, []))
    flags = []
    model._update = lambda batch, flag: flags.append(flag) or {"loss": th.zeros(())}
    model.replay_buffer.add(np.zeros((1, OBS)), np.zeros((1, OBS)), np.zeros((1, ACT)), np.zeros(1), np.zeros(1), [{}])
    for _ in range(3):
        model.train(2, batch_size=2)
    assert sum(flags) == expected


@pytest.mark.parametrize("given, expected", [("auto", -ACT), ("auto_0.5", -ACT / 2), (-0.25, -0.25)])
def test_target_entropy_may_be_a_share(given, expected):
    assert make_model(target_entropy=given).target_entropy == expected


@pytest.mark.parametrize("given", ["auto_half", "auto_nan", "auto_", "half", np.inf])
def test_target_entropy_that_is_none(given):
    with pytest.raises(ValueError, match=r"target_entropy=.* must be a number, 'auto', or a share"):
        make_model(target_entropy=given)


def test_ensemble_keeps_the_contract_of_sb3():
    critic = make_model().critic
    obs, actions = th.randn(7, OBS), th.rand(7, ACT)
    values = critic(obs, actions)
    assert isinstance(values, tuple) and [value.shape for value in values] == [(7, 1)] * N
    th.testing.assert_close(critic.q1_forward(obs, actions), values[0])
    th.testing.assert_close(critic.q_values(obs, actions, th.tensor([3, 1])), th.stack([values[3][:, 0], values[1][:, 0]]))


def test_targets_have_dropout_too():
    """As in DroQ (Hiraoka et al. 2021)."""
    model = REDQ("MlpPolicy", Spaces(), n_critics=2, device="cpu", policy_kwargs=dict(net_arch=[64], dropout_rate=0.5))
    rows = th.randn(4, OBS), th.randn(4, ACT)
    for training in (True, False):
        model.policy.set_training_mode(training)
        first, second = (model.critic_target.q_values(*rows) for _ in range(2))
        assert th.equal(first, second) != training


class BatchNormExtractor(FlattenExtractor):
    """Features whose running mean and variance are no parameters."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = nn.BatchNorm1d(OBS)

    def forward(self, observations):
        return self.norm(super().forward(observations))


def test_targets_have_the_batch_norm_statistics_of_critics():
    """Polyak averages are of parameters only; statistics are taken over as they are (SB3 issue 996)."""
    model = make_model(policy_kwargs=dict(net_arch=[8], features_extractor_class=BatchNormExtractor))
    model.set_logger(Logger(None, []))
    for _ in range(10):
        rows = np.random.randn(2, 1, OBS) + 3
        model.replay_buffer.add(*rows, np.zeros((1, ACT)), np.zeros(1), np.zeros(1), [{}])
    model.policy_delay = 4  # an actor's update would move the critics' on
    model.train(3, batch_size=8)
    ours, targets = (critic.features_extractor.norm for critic in (model.critic, model.critic_target))
    assert ours.running_mean.min() > 0.5 and ours.num_batches_tracked > 0
    for name in ("running_mean", "running_var"):
        assert th.equal(getattr(targets, name), getattr(ours, name)), name
    assert not th.equal(targets.weight, ours.weight)
