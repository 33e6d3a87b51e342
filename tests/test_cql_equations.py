"""CQL against an independent implementation of the paper's equations in float64, action by action."""

import math

import numpy as np
import pytest
import torch as th

from sb3_pgr import CQL
from sb3_pgr.common.optimizers import set_learning_rate


def build(low=-1, **kwargs):
    random = np.random.default_rng(0)
    obs = random.normal(size=(300, 3))
    data = {
        "observations": obs,
        "actions": random.uniform(low, 1, (300, 2)),
        "rewards": random.normal(size=300),
        "next_observations": obs + 0.1 * random.normal(size=(300, 3)),
        "terminals": random.random(300) < 0.1,
        "timeouts": np.zeros(300, bool),
    }
    settings = dict(batch_size=12, policy_kwargs=dict(net_arch=[8, 8]), n_actions=4, seed=1, device="cpu") | kwargs
    return CQL("MlpPolicy", dataset=data, **settings)


def net(weights, x, last=True):
    for i in range(0, len(weights), 2):
        x = x @ weights[i].T + weights[i + 1]
        x = x.relu() if i + 2 < len(weights) or not last else x
    return x


def double(parameters):
    return [p.detach().double().clone().requires_grad_() for p in parameters]


class Reference:
    def __init__(self, model):
        self.model, policy = model, model.policy
        self.mean, self.scale = policy.features_extractor.mean.double(), policy.features_extractor.scale.double()
        actor = policy.actor
        self.body, self.mu, self.log_std = (double(part.parameters()) for part in (actor.latent_pi, actor.mu, actor.log_std))
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
        self.log_ent, self.log_mult = (th.zeros(1, dtype=th.float64, requires_grad=True) for _ in range(2))
        self.moments = {}

    def sample(self, s, noise):
        hidden = net(self.body, s, last=False)
        mean, std = net(self.mu, hidden), net(self.log_std, hidden).clamp(-20, 2).exp()
        u = mean + std * noise
        density = th.distributions.Normal(mean, std).log_prob(u) - (1 - u.tanh() ** 2).log()
        return u.tanh(), density.sum(1), mean, std

    def q(self, weights, s, a):
        return net(weights, th.cat([s, a], 1)).squeeze(1)

    def critic_parts(self, batch):
        m = self.model
        s, s2 = ((batch[name] - self.mean) / self.scale for name in ("observations", "next_observations"))
        with th.no_grad():
            best = th.full((len(s),), -th.inf, dtype=th.float64)
            for i in range(batch["target_noise"].shape[1]):
                a, density, *_ = self.sample(s2, batch["target_noise"][:, i])
                q = th.minimum(*(self.q(target, s2, a) for target in self.targets))
                best = th.maximum(best, q - self.log_ent.exp() * density if m.backup_entropy else q)
            target = batch["rewards"][:, 0] + 0.99 * (1 - batch["dones"][:, 0]) * best
            proposed = []
            for i in range(m.n_actions):
                proposed.append((batch["random_actions"][:, i], th.full((len(s),), math.log(0.5**2), dtype=th.float64)))
                proposed.append(self.sample(s2, batch["next_noise"][:, i])[:2])
                proposed.append(self.sample(s, batch["here_noise"][:, i])[:2])
        errors, gaps = [], []
        for critic in self.critics:
            q_data = self.q(critic, s, batch["actions"])
            if m.importance_sampling:
                total = sum(((self.q(critic, s, a) - density) / m.temperature).exp() for a, density in proposed)
            else:
                total = sum((self.q(critic, s, a) / m.temperature).exp() for a, _ in proposed) + (q_data / m.temperature).exp()
            gaps.append((m.temperature * total.log() - q_data).clamp(*m.clip_gap).mean())
            errors.append((q_data - target).pow(2).mean())
        return sum(errors), th.stack(gaps)

    def actor_parts(self, batch, imitate):
        s = (batch["observations"] - self.mean) / self.scale
        a, density, mean, std = self.sample(s, batch["noise"])
        if imitate:
            data = batch["actions"].clamp(-1 + 1e-5, 1 - 1e-5)
            gain = (th.distributions.Normal(mean, std).log_prob(data.atanh()) - (1 - data**2).log()).sum(1)
        else:
            gain = th.minimum(*(self.q(critic, s, a) for critic in self.critics))
        return (self.log_ent.exp().detach() * density - gain).mean(), density.detach()

    def adam(self, parameters, loss, rate):
        for parameter, gradient in zip(parameters, th.autograd.grad(loss, parameters), strict=True):
            first, second, step = self.moments.get(parameter, (0.0, 0.0, 0))
            first, second, step = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2, step + 1
            self.moments[parameter] = first, second, step
            parameter.data -= rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)

    def update(self, batch, imitate):
        m = self.model
        bellman, gaps = self.critic_parts(batch)
        actor_loss, density = self.actor_parts(batch, imitate)
        weight = m.conservative_weight
        if m.lagrange_threshold is not None:
            over = gaps - m.lagrange_threshold
            multiplier = self.log_mult.exp().clamp(0, 1e6)
            weight = weight * multiplier.detach()
            self.adam([self.log_mult], -0.5 * (multiplier * m.conservative_weight * over.detach()).sum(), 3e-4)
            gaps_used = over
        else:
            gaps_used = gaps
        critic_loss = bellman + (weight * gaps_used).sum()
        gradients = [p for critic in self.critics for p in critic]
        # both losses are of the networks before the update
        actor_parameters = [*self.body, *self.mu, *self.log_std]
        actor_gradients = th.autograd.grad(actor_loss, actor_parameters, retain_graph=True)
        self.adam(gradients, critic_loss, 3e-4)
        fixed = sum((p * g).sum() for p, g in zip(actor_parameters, actor_gradients, strict=True))
        self.adam(actor_parameters, fixed, 3e-5)
        self.adam([self.log_ent], -(self.log_ent * (density - 2.0)).mean(), 3e-5)
        for target, critic in zip(self.targets, self.critics, strict=True):
            for old, new in zip(target, critic, strict=True):
                old.data += 0.005 * (new.data - old.data)
        return {"critic_loss": bellman, "conservative_gap": gaps.mean(), "actor_loss": actor_loss}


def batches(model, n):
    rows = model.replay_buffer.sample_block(n, 12)._asdict()
    block = {name: value for name, value in rows.items() if value is not None} | model._noise(n, 12)
    return [{name: value[i] for name, value in block.items()} for i in range(n)]


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(),
        dict(lagrange_threshold=1.0, max_q_backup=True),
        dict(importance_sampling=False, temperature=2.0, backup_entropy=True),
        dict(bc_steps=60, clip_gap=(-1.0, 3.0)),
    ],
    ids=str,
)
def test_a_hundred_updates_in_step(kwargs):
    model = build(**kwargs)
    model.policy.double()
    reference = Reference(model)
    set_learning_rate(model.policy.actor.optimizer, 3e-5)  # as train() does
    for i, batch in enumerate(batches(model, 100)):
        flag = model._flag(i + 1)
        assert flag == (i < model.bc_steps)
        batch = {name: value.double() for name, value in batch.items()}
        metrics = model._update(batch, flag)
        losses = reference.update(batch, flag)
        for name, loss in losses.items():
            assert metrics[name].item() == pytest.approx(loss.item(), rel=1e-6, abs=1e-6), (i, name)
    for ours, theirs in ((model.policy.actor.mu, reference.mu), (model.policy.actor.latent_pi, reference.body)):
        for parameter, wanted in zip(ours.parameters(), theirs, strict=True):
            th.testing.assert_close(parameter, wanted, rtol=1e-6, atol=1e-6)
    first = next(layer for layer in model.policy.critic_target.ensemble.layers if hasattr(layer, "weight"))
    th.testing.assert_close(first.weight[0].T, reference.targets[0][0], rtol=1e-6, atol=1e-6)
    assert model.log_ent_coef.item() == pytest.approx(reference.log_ent.item(), abs=1e-6)
    assert model.log_multiplier.item() == pytest.approx(reference.log_mult.item(), abs=1e-5)


def test_out_of_data_actions_are_pushed_down():
    """After training, the dataset's actions are valued above random ones; without the conservative term they are not."""
    differences = []
    for weight in (0.0, 10.0):
        model = build(low=0.5, conservative_weight=weight, learning_rate=3e-3).learn(300)
        rows = model.replay_buffer.sample_block(1, 200)
        obs, actions = rows.observations[0], rows.actions[0]
        with th.no_grad():
            q = [model.policy.critic.q_values(obs, a).mean() for a in (actions, 2 * th.rand_like(actions) - 1)]
        differences.append(float(q[0] - q[1]))
    assert differences[1] > differences[0] + 0.3


def test_refusals():
    for kwargs in (dict(n_actions=0), dict(conservative_weight=-1), dict(temperature=0), dict(clip_gap=(1, 1))):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            build(**kwargs)


def test_schedule_of_the_actor(tmp_path):
    model = build(actor_learning_rate=lambda left: 1e-3 * left).learn(100)
    rates = [o.param_groups[0]["lr"] for o in (model.policy.actor.optimizer, model.ent_coef_optimizer)]
    assert rates == pytest.approx([1e-3 * 0.2] * 2)  # that of the last block of 20
    assert model.policy.critic.optimizer.param_groups[0]["lr"] == 3e-4
    model.save(tmp_path / "model.zip")
    assert CQL.load(tmp_path / "model.zip", device="cpu").actor_lr_schedule(0.5) == 5e-4


def test_gaps_are_clipped_row_by_row():
    model = build(clip_gap=(-0.01, 0.01))
    batch = {name: part[0] for name, part in model.replay_buffer.sample_block(1, 32)._asdict().items() if part is not None}
    batch |= {name: part[0] for name, part in model._noise(1, 32).items()}
    with th.no_grad():
        actor = model.policy.actor
        here, following = (actor.get_action_dist_params(batch[name])[:2] for name in ("observations", "next_observations"))
        values = model.policy.critic.q_values(batch["observations"], batch["actions"])
        gap = model._soft_maximum(batch, values, here, following) - values
        low, high = gap.quantile(0.3).item(), gap.quantile(0.7).item()
        model.clip_gap = (low, high)
        th.testing.assert_close(model._critic_loss(batch)[1], gap.clamp(low, high).mean(1))
