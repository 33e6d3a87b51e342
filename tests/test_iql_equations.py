"""IQL against an independent implementation of the paper's equations in float64, in the official order of updates."""

import math

import numpy as np
import pytest
import torch as th

from sb3_pgr import IQL


def build(**kwargs):
    random = np.random.default_rng(0)
    obs = random.normal(size=(300, 3))
    data = {
        "observations": obs,
        "actions": random.uniform(-1, 1, (300, 2)),
        "rewards": random.normal(size=300),
        "next_observations": obs + 0.1 * random.normal(size=(300, 3)),
        "terminals": random.random(300) < 0.1,
        "timeouts": np.zeros(300, bool),
    }
    settings = dict(batch_size=16, policy_kwargs=dict(net_arch=[8, 8]), seed=1, device="cpu", actor_decay=False) | kwargs
    return IQL("MlpPolicy", dataset=data, **settings)


def net(weights, x):
    for i in range(0, len(weights), 2):
        x = x @ weights[i].T + weights[i + 1]
        x = x.relu() if i + 2 < len(weights) else x
    return x


class Reference:
    def __init__(self, model):
        self.model, policy = model, model.policy
        self.mean, self.scale = policy.features_extractor.mean.double(), policy.features_extractor.scale.double()
        double = lambda parameters: [p.detach().double().clone().requires_grad_() for p in parameters]  # noqa: E731
        self.value, self.actor = double(policy.value.layers.parameters()), double(policy.actor.mu.parameters())
        self.log_std = policy.actor.log_std.detach().double().clone().requires_grad_()
        self.critics, self.targets = (
            [
                double(
                    part
                    for layer in critic.ensemble.layers
                    if hasattr(layer, "weight")
                    for part in (layer.weight[k].T, layer.bias[k, 0])
                )
                for k in range(2)
            ]
            for critic in (policy.critic, policy.critic_target)
        )
        self.moments = {}

    def scaled(self, obs):
        return (obs - self.mean) / self.scale

    def v(self, obs):
        return net(self.value, self.scaled(obs)).squeeze(1)

    def q(self, critic, batch):
        return net(critic, th.cat([self.scaled(batch["observations"]), batch["actions"]], 1)).squeeze(1)

    def q_data(self, batch):
        with th.no_grad():
            return th.minimum(*(self.q(target, batch) for target in self.targets))

    def value_loss(self, batch):
        u = self.q_data(batch) - self.v(batch["observations"])
        return ((self.model.expectile - (u < 0).double()).abs() * u**2).mean()

    def actor_loss(self, batch):
        with th.no_grad():
            advantage = self.q_data(batch) - self.v(batch["observations"])
            weight = th.minimum((self.model.beta * advantage).exp(), th.tensor(self.model.max_weight, dtype=th.float64))
        mean = net(self.actor, self.scaled(batch["observations"])).tanh()
        std = self.log_std.clamp(-5, 2).exp()
        density = (-((batch["actions"] - mean) ** 2) / (2 * std**2)).exp() / (std * math.sqrt(2 * math.pi))
        return -(weight * density.log().sum(1)).mean()

    def critic_losses(self, batch):
        with th.no_grad():
            target = batch["rewards"][:, 0] + 0.99 * (1 - batch["dones"][:, 0]) * self.v(batch["next_observations"])
        return [(self.q(critic, batch) - target).pow(2).mean() for critic in self.critics]

    def adam(self, parameters, loss):
        for parameter, gradient in zip(parameters, th.autograd.grad(loss, parameters), strict=True):
            first, second, step = self.moments.get(parameter, (0.0, 0.0, 0))
            first, second, step = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2, step + 1
            self.moments[parameter] = first, second, step
            parameter.data -= 3e-4 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)

    def update(self, batch):
        losses = {"value_loss": self.value_loss(batch)}
        self.adam(self.value, losses["value_loss"])
        losses["actor_loss"] = self.actor_loss(batch)
        self.adam([*self.actor, self.log_std], losses["actor_loss"])
        critic_losses = self.critic_losses(batch)
        losses["critic_loss"] = sum(critic_losses)
        for critic, loss in zip(self.critics, critic_losses, strict=True):
            self.adam(critic, loss)
        for target, critic in zip(self.targets, self.critics, strict=True):
            for old, new in zip(target, critic, strict=True):
                old.data += 0.005 * (new.data - old.data)
        return losses


def blocks(model, n):
    rows = model.replay_buffer.sample_block(n, 16)._asdict()
    return [{name: value[i] for name, value in rows.items() if value is not None} for i in range(n)]


@pytest.mark.parametrize("kwargs", [dict(), dict(expectile=0.9, beta=10.0), dict(normalize_observations=True, max_weight=1.5)])
def test_a_hundred_updates_in_step(kwargs):
    model = build(**kwargs)
    model.policy.double()  # beta stands in an exponent: in float32 it would multiply rounding errors
    reference = Reference(model)
    for i, batch in enumerate(blocks(model, 100)):
        batch = {name: value.double() for name, value in batch.items()}
        metrics = model._update(dict(batch), True)
        losses = reference.update(batch)
        for name, loss in losses.items():
            assert metrics[name].item() == pytest.approx(loss.item(), rel=1e-6), (i, name)
    for ours, theirs in zip(model.policy.actor.mu.parameters(), reference.actor, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(model.policy.value.layers.parameters(), reference.value, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_gradients():
    model = build()
    model.policy.double()
    reference = Reference(model)
    batch = {name: value.double() for name, value in blocks(model, 1)[0].items()}
    batch["q_data"] = reference.q_data(batch)
    for loss, wanted, ours, theirs in (
        (model._value_loss(batch)[0], reference.value_loss(batch), model.policy.value.layers, reference.value),
        (model._losses(batch)[0], reference.actor_loss(batch), model.policy.actor.mu, reference.actor),
    ):
        loss.backward()
        for parameter, gradient in zip(ours.parameters(), th.autograd.grad(wanted, theirs), strict=True):
            th.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-8)


def test_only_the_actor_slows_down():
    model = build(actor_decay=True)
    rates = []
    for remaining in (1.0, 0.5, 0.0):
        model._current_progress_remaining = remaining
        rates.append((model._learning_rate_of("actor"), model._learning_rate_of("critic")))
    assert rates == [(3e-4, 3e-4), (pytest.approx(1.5e-4), 3e-4), (pytest.approx(0, abs=1e-12), 3e-4)]
    model.online = True
    assert model._learning_rate_of("actor") == 3e-4


def test_networks_start_orthogonal():
    weight = build().policy.value.layers[2].weight.detach()
    th.testing.assert_close(weight @ weight.T, 2 * th.eye(8), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"expectile=1\.0"):
        build(expectile=1.0)


def test_bounds_of_the_policy():
    """Its standard deviation is at most e^2, and samples are actions."""
    actor = build().policy.actor
    with th.no_grad():
        actor.log_std.fill_(5.0)
    obs = th.zeros(200, 3)
    assert actor.sample(obs).abs().max() <= 1
    likeliest = -2 * (2 + 0.5 * math.log(2 * math.pi))
    th.testing.assert_close(actor.log_prob(obs[:1], actor(obs[:1])), th.tensor([likeliest]))
