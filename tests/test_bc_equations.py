"""Behaviour cloning, in all its kinds, against an independent implementation in float64."""

import math

import numpy as np
import pytest
import torch as th

from sb3_pgr import BC

KINDS = [dict(), dict(gaussian=True), dict(best_fraction=0.3), dict(gaussian=True, best_fraction=0.3)]
every = pytest.mark.parametrize("kwargs", KINDS, ids=str)


def recorded():
    """Ten episodes of thirty rows."""
    random = np.random.default_rng(0)
    obs = random.normal(size=(300, 3))
    return {
        "observations": obs,
        "actions": random.uniform(-1, 1, (300, 2)),
        "rewards": random.normal(size=300),
        "next_observations": obs + 0.1 * random.normal(size=(300, 3)),
        "terminals": np.arange(300) % 30 == 29,
        "timeouts": np.zeros(300, bool),
    }


def build(gaussian=False, **kwargs):
    policy_kwargs = dict(net_arch=[8, 8], gaussian=gaussian)
    return BC("MlpPolicy", dataset=recorded(), batch_size=16, policy_kwargs=policy_kwargs, seed=1, device="cpu", **kwargs)


class Reference:
    def __init__(self, model):
        self.actor = [p.detach().double().clone().requires_grad_() for p in model.policy.actor.mu.parameters()]
        self.parameters = list(self.actor)
        self.gaussian = model.policy.gaussian
        if self.gaussian:
            self.log_std = model.policy.actor.log_std.detach().double().clone().requires_grad_()
            self.parameters.append(self.log_std)
        data = recorded()
        returns = data["rewards"].reshape(10, 30).sum(1)
        best = np.sort(np.argsort(returns)[-round(10 * model.best_fraction) :])
        self.rows = data["observations"].astype(np.float32).reshape(10, 30, 3)[best].reshape(-1, 3)
        kept = self.rows.astype(np.float64)
        self.mean, self.scale = th.as_tensor(kept.mean(0)), th.as_tensor(kept.std(0) + 1e-3)
        self.moments = {}

    def loss(self, batch):
        x = (batch["observations"] - self.mean) / self.scale
        for i in range(0, len(self.actor), 2):
            x = x @ self.actor[i].T + self.actor[i + 1]
            x = x.relu() if i + 2 < len(self.actor) else x.tanh()
        errors = (batch["actions"] - x) ** 2
        if not self.gaussian:
            return errors.mean()
        std = self.log_std.clamp(-5, 2).exp()
        density = (-errors / (2 * std**2)).exp() / (std * math.sqrt(2 * math.pi))
        return -density.log().sum(1).mean()

    def update(self, batch):
        loss = self.loss(batch)
        for parameter, gradient in zip(self.parameters, th.autograd.grad(loss, self.parameters), strict=True):
            first, second, step = self.moments.get(parameter, (0.0, 0.0, 0))
            first, second, step = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2, step + 1
            self.moments[parameter] = first, second, step
            parameter.data -= 3e-4 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        return loss


def prepared(**kwargs):
    """A model in float64, with statistics that were not rounded to float32, and its reference."""
    model = build(**kwargs)
    model.policy.double()
    reference, extractor = Reference(model), model.policy.features_extractor
    for ours, theirs in ((extractor.mean, reference.mean), (extractor.scale, reference.scale)):
        th.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
        ours.copy_(theirs)
    return model, reference


def blocks(model, n):
    rows = model.replay_buffer.sample_block(n, 16)._asdict()
    return [{name: value[i].double() for name, value in rows.items() if value is not None} for i in range(n)]


def ours(model, reference):
    """Parameters in the reference's order."""
    return [*model.policy.actor.mu.parameters(), *([model.policy.actor.log_std] if reference.gaussian else [])]


@every
def test_a_hundred_updates_in_step(kwargs):
    model, reference = prepared(**kwargs)
    for i, batch in enumerate(blocks(model, 100)):
        metrics = model._update(dict(batch), True)
        assert metrics["bc_loss"].item() == pytest.approx(reference.update(batch).item(), rel=1e-6), i
    for parameter, wanted in zip(ours(model, reference), reference.parameters, strict=True):
        th.testing.assert_close(parameter, wanted, rtol=1e-6, atol=1e-6)


@every
def test_gradients(kwargs):
    model, reference = prepared(**kwargs)
    (batch,) = blocks(model, 1)
    loss, wanted = model._loss(batch), reference.loss(batch)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    loss.backward()
    for parameter, gradient in zip(ours(model, reference), th.autograd.grad(wanted, reference.parameters), strict=True):
        th.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-8)


@every
def test_rows_are_those_of_the_best_episodes(kwargs):
    model, reference = prepared(**kwargs)
    kept = model.replay_buffer.sources["dataset"]
    np.testing.assert_array_equal(kept.observations[: kept.size(), 0], reference.rows)
