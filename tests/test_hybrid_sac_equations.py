"""HybridSAC against an independent implementation of HIL-SERL's equations in float64."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_pgr import HybridSAC
from sb3_pgr.common.networks import RunningNorm
from sb3_pgr.offline.spaces_only import SpacesOnly

OBS, ROWS, GAMMA = 5, 12, 0.9
MODES = {
    "single-arm-fixed-gripper": 4,
    "single-arm-learned-gripper": 4,
    "dual-arm-fixed-gripper": 6,
    "dual-arm-learned-gripper": 8,
}
GRIPPERS = {"single-arm-learned-gripper": (3,), "dual-arm-learned-gripper": (3, 7)}


def build(setup_mode="single-arm-learned-gripper", **kwargs):
    env = SpacesOnly(spaces.Box(-np.inf, np.inf, (OBS,)), spaces.Box(-1, 1, (MODES[setup_mode],)))
    settings = dict(gamma=GAMMA, policy_kwargs=dict(net_arch=[8, 8]), seed=1, device="cpu", buffer_size=100) | kwargs
    model = HybridSAC("MlpPolicy", env, setup_mode=setup_mode, **settings)
    model.policy.observe(th.randn(50, OBS) * 2 + 1)
    model.policy.double()
    for norm in (module for module in model.policy.modules() if isinstance(module, RunningNorm)):
        norm.forward = lambda x, norm=norm: RunningNorm.forward(norm, x.double())  # observations come as float32
    return model


def batches(model, n):
    random = np.random.default_rng(0)
    width = MODES[model.setup_mode]

    def one():
        actions = random.uniform(-1, 1, (ROWS, width))
        grips = list(GRIPPERS.get(model.setup_mode, ()))
        actions[:, grips] = random.choice([-1.0, -0.93, 0.0, 0.93, 1.0], (ROWS, len(grips)))
        arrays = {
            "observations": random.normal(size=(ROWS, OBS)),
            "actions": actions,
            "next_observations": random.normal(size=(ROWS, OBS)),
            "rewards": random.integers(0, 2, (ROWS, 1)).astype(float),
            "dones": random.integers(0, 2, (ROWS, 1)).astype(float),
            "grasp_penalties": -0.02 * random.integers(0, 2, (ROWS, 1)),
            "noise": random.normal(size=(ROWS, width - len(grips))),
            "next_noise": random.normal(size=(ROWS, width - len(grips))),
        }
        return {name: th.as_tensor(value, dtype=th.float64) for name, value in arrays.items()}

    return [one() for _ in range(n)]


def mlp(weights, x):
    """Linear, layer norm, tanh; the last layer is linear."""
    *hidden, last = weights
    for w, b, scale, shift in hidden:
        x = x @ w + b
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * scale + shift
        x = x.tanh()
    return x @ last[0] + last[1]


def copied(parameters):
    return [tuple(p.detach().double().clone().requires_grad_() for p in layer) for layer in parameters]


def of_sequential(*modules):
    linear = [m for module in modules for m in module.modules() if isinstance(m, th.nn.Linear)]
    norms = [m for module in modules for m in module.modules() if isinstance(m, th.nn.LayerNorm)]
    layers = [(a.weight.T, a.bias, n.weight, n.bias) for a, n in zip(linear, norms, strict=False)]
    return copied([*layers, *((a.weight.T, a.bias) for a in linear[len(norms) :])])


def of_ensemble(ensemble, k):
    layers = [layer for layer in ensemble.layers if list(layer.parameters())]
    paired = [
        (a.weight[k], a.bias[k, 0], n.weight[k, 0], n.bias[k, 0]) for a, n in zip(layers[:-1:2], layers[1:-1:2], strict=True)
    ]
    return copied([*paired, (layers[-1].weight[k], layers[-1].bias[k, 0])])


class Reference:
    def __init__(self, model):
        self.model, policy = model, model.policy
        norm = policy.critic.features_extractor.state_norm
        self.mean, self.std = norm.mean.double(), (norm.var.double() + 1e-8).sqrt()
        self.critics = [of_ensemble(policy.critic.ensemble, k) for k in range(2)]
        self.targets = [of_ensemble(policy.critic_target.ensemble, k) for k in range(2)]
        self.grips = list(GRIPPERS.get(model.setup_mode, ()))
        self.arm = [i for i in range(MODES[model.setup_mode]) if i not in self.grips]
        self.grasp = of_sequential(policy.critic.grasp) if self.grips else []
        self.grasp_target = of_sequential(policy.critic_target.grasp) if self.grips else []
        self.body = of_sequential(policy.actor.latent_pi)
        self.mu, self.log_std = of_sequential(policy.actor.mu)[0], of_sequential(policy.actor.log_std)[0]
        self.log_alpha = th.full((1,), math.log(0.01), dtype=th.float64, requires_grad=True)
        self.moments = {}

    def policy(self, s, noise):
        x = (s - self.mean) / self.std
        for w, b, scale, shift in self.body:
            x = x @ w + b
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * scale + shift
            x = x.tanh()
        mean, std = x @ self.mu[0] + self.mu[1], (x @ self.log_std[0] + self.log_std[1]).exp().clamp(1e-5, 5)
        u = mean + std * noise
        density = (-0.5 * ((u - mean) / std) ** 2).exp() / (std * math.sqrt(2 * math.pi))
        return u.tanh(), (density.log() - (1 - u.tanh() ** 2).log()).sum(1)

    def q(self, critic, s, a):
        return mlp(critic, th.cat([(s - self.mean) / self.std, a], 1)).squeeze(1)

    def g(self, weights, s):
        return mlp(weights, (s - self.mean) / self.std)

    def losses(self, batch):
        model, alpha = self.model, self.log_alpha.exp()
        s, s2, r = batch["observations"], batch["next_observations"], batch["rewards"][:, 0]
        mask = 1 - batch["dones"][:, 0]
        a2, logp2 = self.policy(s2, batch["next_noise"])
        y = th.minimum(*(self.q(target, s2, a2) for target in self.targets))
        low, high = (-9e9, 9e9) if model.value_range[1] == math.inf else (-0.1, 0.2)
        y = y.clamp(low, high)
        y = r + GAMMA * mask * (y - alpha * logp2 * model.backup_entropy)
        values = [self.q(critic, s, batch["actions"][:, self.arm]) for critic in self.critics]
        losses = {"critic_loss": sum(((value - y.detach()) ** 2).mean() for value in values) / 2}
        if self.grips:
            targets, chosen = [], []
            now, online, held = self.g(self.grasp, s), self.g(self.grasp, s2), self.g(self.grasp_target, s2)
            for i in range(ROWS):
                best = max(range(online.shape[1]), key=lambda j: online[i, j].item())
                targets.append(r[i] + batch["grasp_penalties"][i, 0] + GAMMA * mask[i] * min(held[i, best], th.tensor(high)))
                classes = [{-1: 0, 0: 1, 1: 2}[round(batch["actions"][i, g].item())] for g in self.grips]
                joint = classes[0] if len(classes) == 1 else classes[0] * 3 + classes[1]
                chosen.append(now[i, joint])
            losses["grasp_critic_loss"] = ((th.stack(chosen) - th.stack(targets).detach()) ** 2).mean()
        a, logp = self.policy(s, batch["noise"])
        values = th.stack([self.q(critic, s, a) for critic in self.critics])
        value = values.mean(0) if model.actor_value == "mean" else values.min(0).values
        losses["actor_loss"] = -(value - alpha.detach() * logp).mean()
        entropy = -logp2.detach().mean()
        losses["ent_coef_loss"] = (alpha * (entropy - (-MODES[model.setup_mode] / 2))).mean()
        return losses

    def adam(self, parameters, gradients):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            first, second, step = self.moments.get(parameter, (0.0, 0.0, 0))
            first, second, step = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2, step + 1
            self.moments[parameter] = first, second, step
            parameter.data -= 3e-4 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)

    def update(self, batch, full):
        losses = self.losses(batch)
        flat = lambda nets: [p for net in nets for layer in net for p in layer]  # noqa: E731
        critics, grasp = flat(self.critics), flat([self.grasp])
        actor = [*flat([self.body]), *self.mu, *self.log_std]
        todo = [(critics, losses["critic_loss"])]
        todo += [(grasp, losses["grasp_critic_loss"])] if self.grips else []
        todo += [(actor, losses["actor_loss"]), ([self.log_alpha], losses["ent_coef_loss"])] if full else []
        steps = [(group, th.autograd.grad(loss, group, retain_graph=True)) for group, loss in todo]
        for group, gradients in steps:  # all taken before any step: the same parameters for all losses
            self.adam(group, gradients)
        for targets, nets in ((flat(self.targets), critics), (flat([self.grasp_target]), grasp)):
            for old, new in zip(targets, nets, strict=True):
                old.data += 0.005 * (new.data - old.data)
        return losses if full else {name: value for name, value in losses.items() if "critic" in name}


@pytest.mark.parametrize("setup_mode", MODES)
@pytest.mark.parametrize(
    "kwargs", [dict(), dict(actor_value="min", backup_entropy=True), dict(value_range=(-0.1, 0.2))], ids=str
)
def test_a_hundred_updates_in_step(setup_mode, kwargs):
    model = build(setup_mode, **kwargs)
    reference = Reference(model)
    for i, batch in enumerate(batches(model, 100)):
        full = i % 2 == 1
        metrics, losses = model._update(dict(batch), full), reference.update(batch, full)
        assert losses.keys() <= metrics.keys() and full == ("actor_loss" in metrics)
        for name, loss in losses.items():
            assert metrics[name].item() == pytest.approx(loss.item(), rel=1e-6, abs=1e-6), (i, name)
    ours = [*model.actor.mu.parameters(), *model.actor.log_std.parameters()]
    theirs = [*reference.mu, *reference.log_std]
    for parameter, wanted in zip(ours, theirs, strict=True):
        th.testing.assert_close(parameter, wanted.T if wanted.ndim == 2 else wanted, rtol=1e-6, atol=1e-6)
    assert model.log_ent_coef.item() == pytest.approx(reference.log_alpha.item(), rel=1e-6)


def test_the_penalty_is_in_the_grasp_target_alone():
    model = build()
    (batch,) = batches(model, 1)
    without = model._losses(batch | {"grasp_penalties": th.zeros(ROWS, 1)}, True)[1]
    with_it = model._losses(batch | {"grasp_penalties": -th.ones(ROWS, 1)}, True)[1]
    assert {name for name in with_it if not th.equal(with_it[name], without[name])} == {"grasp_critic_loss"}


def test_defaults_are_published_ones():
    model = build("dual-arm-learned-gripper", gamma=0.97)
    assert model.target_entropy == -4 and model.cta_ratio == 2 and model.gamma == 0.97 and model.tau == 0.005
    assert model.log_ent_coef.exp().item() == pytest.approx(0.01) and model.critic.n_critics == 2
    assert model.policy.critic.grasp[-1].out_features == 9
