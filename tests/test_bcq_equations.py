"""BCQ against an independent implementation of the paper's equations in float64, candidate by candidate."""

import numpy as np
import pytest
import torch as th

from sb3_pgr import BCQ


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
    policy = dict(net_arch=[8, 6], vae_arch=[9, 9], n_eval_samples=30)
    return BCQ("MlpPolicy", dataset=data, **(dict(batch_size=12, policy_kwargs=policy, seed=1, device="cpu") | kwargs))


def net(weights, x):
    for i in range(0, len(weights), 2):
        x = x @ weights[i].T + weights[i + 1]
        x = x.relu() if i + 2 < len(weights) else x
    return x


def double(parameters):
    return [p.detach().double().clone().requires_grad_() for p in parameters]


class Reference:
    def __init__(self, model):
        self.model, policy = model, model.policy
        self.mean, self.scale = policy.features_extractor.mean.double(), policy.features_extractor.scale.double()
        self.encoder, self.decoder = double(policy.vae.encoder.parameters()), double(policy.vae.decoder.parameters())
        self.actor, self.actor_target = (
            double(policy.actor.layers.parameters()),
            double(policy.actor_target.layers.parameters()),
        )
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

    def moved(self, weights, s, a):
        return (a + 0.05 * net(weights, th.cat([s, a], 1)).tanh()).clamp(-1, 1)

    def q(self, weights, s, a):
        return net(weights, th.cat([s, a], 1)).squeeze(1)

    def decoded(self, s, z):
        return net(self.decoder, th.cat([s, z], 1)).tanh()

    def vae_loss(self, batch):
        s = (batch["observations"] - self.mean) / self.scale
        mean, log_std = net(self.encoder, th.cat([s, batch["actions"]], 1)).chunk(2, 1)
        std = log_std.clamp(-4, 15).exp()
        reconstruction = ((self.decoded(s, mean + std * batch["noise"]) - batch["actions"]) ** 2).mean()
        return reconstruction + 0.5 * (-0.5 * (1 + (std**2).log() - mean**2 - std**2)).mean()

    def critic_losses(self, batch):
        with th.no_grad():
            s = (batch["next_observations"] - self.mean) / self.scale
            best = th.full((len(s),), -th.inf, dtype=th.float64)
            for i in range(self.model.n_target_samples):
                a = self.moved(self.actor_target, s, self.decoded(s, batch["next_latents"][:, i]))
                first, second = (self.q(target, s, a) for target in self.targets)
                best = th.maximum(best, 0.75 * th.minimum(first, second) + 0.25 * th.maximum(first, second))
            target = batch["rewards"][:, 0] + 0.99 * (1 - batch["dones"][:, 0]) * best
        s = (batch["observations"] - self.mean) / self.scale
        return [((self.q(critic, s, batch["actions"]) - target) ** 2).mean() for critic in self.critics]

    def actor_loss(self, batch):
        s = (batch["observations"] - self.mean) / self.scale
        return -self.q(self.critics[0], s, self.moved(self.actor, s, self.decoded(s, batch["latents"]).detach())).mean()

    def adam(self, parameters, loss):
        for parameter, gradient in zip(parameters, th.autograd.grad(loss, parameters), strict=True):
            first, second, step = self.moments.get(parameter, (0.0, 0.0, 0))
            first, second, step = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2, step + 1
            self.moments[parameter] = first, second, step
            parameter.data -= 1e-3 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)

    def update(self, batch):
        losses = {"vae_loss": self.vae_loss(batch)}
        self.adam([*self.encoder, *self.decoder], losses["vae_loss"])
        critic_losses = self.critic_losses(batch)
        losses["critic_loss"] = sum(critic_losses)
        for critic, loss in zip(self.critics, critic_losses, strict=True):
            self.adam(critic, loss)
        losses["actor_loss"] = self.actor_loss(batch)
        self.adam(self.actor, losses["actor_loss"])
        for target, network in zip([*self.targets, self.actor_target], [*self.critics, self.actor], strict=True):
            for old, new in zip(target, network, strict=True):
                old.data += 0.005 * (new.data - old.data)
        return losses


def batches(model, n):
    rows = model.replay_buffer.sample_block(n, 12)._asdict()
    block = {name: value for name, value in rows.items() if value is not None} | model._noise(n, 12)
    return [{name: value[i] for name, value in block.items()} for i in range(n)]


@pytest.mark.parametrize("n_target_samples", [10, 1])
def test_a_hundred_updates_in_step(n_target_samples):
    model = build(n_target_samples=n_target_samples)
    model.policy.double()
    reference = Reference(model)
    for i, batch in enumerate(batches(model, 100)):
        assert batch["latents"].abs().max() <= 0.5 and batch["next_latents"].shape == (12, n_target_samples, 4)
        batch = {name: value.double() for name, value in batch.items()}
        metrics = model._update(batch, True)
        losses = reference.update(batch)
        for name, loss in losses.items():
            assert metrics[name].item() == pytest.approx(loss.item(), rel=1e-6), (i, name)
    for ours, theirs in (
        (model.policy.actor.layers, reference.actor),
        (model.policy.actor_target.layers, reference.actor_target),
        (model.policy.vae.decoder, reference.decoder),
    ):
        for parameter, wanted in zip(ours.parameters(), theirs, strict=True):
            th.testing.assert_close(parameter, wanted, rtol=1e-6, atol=1e-6)


def test_gradients():
    model = build()
    model.policy.double()
    reference = Reference(model)
    batch = {name: value.double() for name, value in batches(model, 1)[0].items()}
    for loss, wanted, ours, theirs in (
        (model._vae_loss(batch)[0], reference.vae_loss(batch), model.policy.vae.encoder, reference.encoder),
        (model._actor_loss(batch), reference.actor_loss(batch), model.policy.actor.layers, reference.actor),
    ):
        loss.backward()
        for parameter, gradient in zip(ours.parameters(), th.autograd.grad(wanted, theirs), strict=True):
            th.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-8)


def test_predictions_take_the_best_candidate():
    """Of the decoded and moved candidates, one by one; the same for one observation as for many."""
    model = build()
    reference, policy = Reference(model), model.policy
    obs = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    s = (th.as_tensor(obs).double() - reference.mean) / reference.scale
    wanted, best = None, th.full((5,), -th.inf, dtype=th.float64)
    for z in policy.eval_latents.double():
        a = reference.moved(reference.actor, s, reference.decoded(s, z.expand(5, -1)))
        q = reference.q(reference.critics[0], s, a)
        wanted = a if wanted is None else th.where((q > best)[:, None], a, wanted)
        best = th.maximum(best, q)
    actions, _ = model.predict(obs, deterministic=True)
    low, high = model.action_space.low, model.action_space.high
    np.testing.assert_allclose(actions, low + (wanted.detach().numpy() + 1) / 2 * (high - low), atol=1e-4)
    np.testing.assert_allclose(model.predict(obs[2], deterministic=True)[0], actions[2], atol=1e-6)
    assert not np.array_equal(model.predict(obs, deterministic=False)[0], actions)


def test_refusals():
    for kwargs in (dict(lmbda=1.5), dict(n_target_samples=0), dict(kl_weight=-1)):
        with pytest.raises(ValueError, match=f"{next(iter(kwargs))}={next(iter(kwargs.values()))}"):
            build(**kwargs)
    with pytest.raises(ValueError, match="n_eval_samples=0"):
        build(policy_kwargs=dict(n_eval_samples=0))
