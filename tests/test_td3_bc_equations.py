"""TD3+BC against an independent implementation of the paper's equations in float64, one critic at a time."""

import copy

import numpy as np
import pytest
import torch as th

from sb3_pgr import TD3BC


def dataset(n=300):
    random = np.random.default_rng(0)
    obs = random.normal(size=(n, 3))
    return {
        "observations": obs,
        "actions": random.uniform(-1, 1, (n, 2)),
        "rewards": random.normal(size=n),
        "next_observations": obs + 0.1 * random.normal(size=(n, 3)),
        "terminals": random.random(n) < 0.1,
        "timeouts": np.zeros(n, bool),
    }


def build(**kwargs):
    settings = dict(batch_size=16, policy_kwargs=dict(net_arch=[8, 8]), seed=1, device="cpu") | kwargs
    return TD3BC("MlpPolicy", dataset=dataset(), **settings)


class Reference:
    """The paper's algorithm on plain lists of weight matrices, gradients by autograd, Adam written out."""

    def __init__(self, model):
        policy = model.policy
        self.mean, self.scale = policy.features_extractor.mean.double(), policy.features_extractor.scale.double()
        self.actor = [p.detach().double().clone().requires_grad_() for p in policy.actor.mu.parameters()]
        layers = [layer for layer in policy.critic.ensemble.layers if hasattr(layer, "weight")]
        self.critics = [
            [part for layer in layers for part in (layer.weight[k].T, layer.bias[k, 0])] for k in range(policy.n_critics)
        ]
        self.critics = [[p.detach().double().clone().requires_grad_() for p in critic] for critic in self.critics]
        self.targets = copy.deepcopy([self.actor, *self.critics])
        self.moments = {}
        self.model = model

    @staticmethod
    def net(weights, x):
        for i in range(0, len(weights), 2):
            x = x @ weights[i].T + weights[i + 1]
            x = x.relu() if i + 2 < len(weights) else x
        return x

    def q(self, critic, obs, actions):
        return self.net(critic, th.cat([(obs - self.mean) / self.scale, actions], 1)).squeeze(1)

    def pi(self, actor, obs):
        return self.net(actor, (obs - self.mean) / self.scale).tanh()

    def critic_losses(self, batch):
        with th.no_grad():
            noise = (0.2 * batch["noise"]).clamp(-0.5, 0.5)
            next_actions = (self.pi(self.targets[0], batch["next_observations"]) + noise).clamp(-1, 1)
            next_q = [self.q(target, batch["next_observations"], next_actions) for target in self.targets[1:]]
            target = batch["rewards"][:, 0] + 0.99 * (1 - batch["dones"][:, 0]) * th.minimum(*next_q)
        return [(self.q(critic, batch["observations"], batch["actions"]) - target).pow(2).mean() for critic in self.critics]

    def actor_loss(self, batch):
        actions = self.pi(self.actor, batch["observations"])
        q = self.q(self.critics[0], batch["observations"], actions)
        weight = self.model.alpha / q.abs().mean().detach()
        return -weight * q.mean() + (actions - batch["actions"]).pow(2).mean()

    def adam(self, parameters, loss):
        for parameter, gradient in zip(parameters, th.autograd.grad(loss, parameters), strict=True):
            first, second, step = self.moments.get(parameter, (0.0, 0.0, 0))
            first, second, step = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2, step + 1
            self.moments[parameter] = first, second, step
            parameter.data -= 3e-4 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)

    def update(self, batch, actor_too):
        losses = self.critic_losses(batch)
        for critic, loss in zip(self.critics, losses, strict=True):
            self.adam(critic, loss)
        if actor_too:
            self.adam(self.actor, self.actor_loss(batch))
            for target, network in zip(self.targets, [self.actor, *self.critics], strict=True):
                for old, new in zip(target, network, strict=True):
                    old.data += 0.005 * (new.data - old.data)
        return sum(losses)


def blocks(model, n):
    rows = model.replay_buffer.sample_block(n, 16)._asdict()
    return {name: value for name, value in rows.items() if value is not None} | model._noise(n, 16)


def test_losses_and_gradients():
    model = build()
    model.learn(50)  # somewhere
    model.policy.double()
    reference, block = Reference(model), blocks(model, 1)
    reference.targets = [
        [p.detach() for p in model.policy.actor_target.mu.parameters()],
        *Reference(_with_targets(model)).critics,
    ]
    batch = {name: value[0].double() for name, value in block.items()}
    loss, *_ = model._critic_loss(batch)
    losses = reference.critic_losses(batch)
    assert loss.item() == pytest.approx(sum(losses).item(), rel=1e-6)
    model.policy.critic.zero_grad()
    loss.backward()
    first = next(layer for layer in model.policy.critic.ensemble.layers if hasattr(layer, "weight"))
    for k in range(2):
        (gradient,) = th.autograd.grad(losses[k], reference.critics[k][0], retain_graph=True)
        th.testing.assert_close(first.weight.grad[k].T, gradient, rtol=1e-6, atol=1e-6)
    actor_loss, *_ = model._actor_loss(batch)
    wanted = reference.actor_loss(batch)
    assert actor_loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    model.policy.actor.zero_grad()
    actor_loss.backward()
    for parameter, gradient in zip(model.policy.actor.mu.parameters(), th.autograd.grad(wanted, reference.actor), strict=True):
        th.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-6)


def _with_targets(model):
    """A view of the model whose critics are the targets."""
    view = copy.deepcopy(model)
    view.policy.critic = view.policy.critic_target
    return view


@pytest.mark.parametrize("policy_delay", [1, 2])
def test_a_hundred_updates_in_step(policy_delay):
    model = build(policy_delay=policy_delay)
    model.policy.double()
    reference, block = Reference(model), blocks(model, 100)
    for i in range(100):
        batch = {name: value[i].double() for name, value in block.items()}
        flag = model._flag(i + 1)
        metrics = model._update(batch, flag)
        loss = reference.update(batch, flag)
        assert metrics["critic_loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    for ours, theirs in zip(model.policy.actor.mu.parameters(), reference.actor, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(model.policy.actor_target.mu.parameters(), reference.targets[0], strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_weight_of_the_value_is_no_path_for_gradients():
    """Scaling all values leaves the actor's gradient alone: lambda is a constant, but follows their size."""
    model = build()
    batch = {name: value[0] for name, value in blocks(model, 1).items()}
    gradients = []
    for scale in (1.0, 50.0):
        last = model.policy.critic.ensemble.layers[-1]
        last.weight.data *= scale
        last.bias.data *= scale
        loss, *_ = model._actor_loss(batch)
        model.policy.actor.zero_grad()
        loss.backward()
        gradients.append([p.grad.clone() for p in model.policy.actor.mu.parameters()])
    for first, second in zip(*gradients, strict=True):
        th.testing.assert_close(first, second, rtol=1e-3, atol=1e-6)
