"""Copies of models learn as the original would have; and so does a model with a new seed, each time."""

import copy
import pickle

import numpy as np
import pytest
import torch as th
from reach import SMALL, Reach
from stable_baselines3.common.utils import set_random_seed

from sb3_pgr import BC, BCQ, CQL, IQL, PGRSAC, REDQ, TD3BC, HybridSAC

ONLINE = dict(learning_starts=20, batch_size=16, gradient_steps=2, policy_delay=2, buffer_size=1_000, seed=0, device="cpu")
GENERATIVE = dict(
    retrain_every=25,
    num_samples=50,
    generator=dict(denoiser_kwargs=dict(width=16, n_blocks=1), train_steps=5, batch_size=16, dynamics_steps=5),
    replay_buffer_kwargs=dict(relevance="td_error", warmup=20, max_outside=1.0),
)
OFFLINE = dict(batch_size=16, policy_kwargs=dict(net_arch=[8]), seed=0, device="cpu")


def redq(**kwargs):
    return REDQ("MlpPolicy", "Pendulum-v1", **ONLINE, **kwargs)


def pgrsac():
    return PGRSAC("MlpPolicy", "Pendulum-v1", **ONLINE, **GENERATIVE)


def hybrid_sac():
    return HybridSAC("MlpPolicy", Reach(4), **SMALL)


def offline(algorithm):
    rng = np.random.default_rng(0)
    draw = {name: rng.normal(size=(200, 3)).astype(np.float32) for name in ("observations", "next_observations")}
    flags = {name: np.arange(200) % 50 == 49 for name in ("timeouts",)} | {"terminals": np.zeros(200, bool)}
    data = draw | flags | {"actions": rng.uniform(-1, 1, (200, 2)).astype(np.float32), "rewards": rng.normal(size=200)}
    kwargs = OFFLINE | (dict(policy_kwargs=dict(net_arch=[8], vae_arch=[8], n_eval_samples=5)) if algorithm is BCQ else {})
    return algorithm("MlpPolicy", dataset=data, **kwargs)


MODELS = {"REDQ": redq, "bfloat16": lambda: redq(precision="bf16"), "PGRSAC": pgrsac, "HybridSAC": hybrid_sac}
MODELS |= {kind.__name__: lambda kind=kind: offline(kind) for kind in (TD3BC, CQL, IQL, BCQ, BC)}


def weights(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def go_on(model):
    set_random_seed(3)
    model.learn(30, reset_num_timesteps=False)
    return weights(model)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("name", MODELS)
def test_a_copy_learns_as_the_original_would(name, copied):
    model = MODELS[name]().learn(40)
    before, other = weights(model), copied(model)
    of_copy = go_on(other)
    assert all(th.equal(value, before[key]) for key, value in weights(model).items())
    learned = [key for key, _ in other.policy.named_parameters() if "target" not in key]
    assert all(not th.equal(of_copy[key], before[key]) for key in learned)
    assert all(th.equal(value, of_copy[key]) for key, value in go_on(model).items())


def test_a_copy_of_a_compiled_model_runs_its_own_update():
    model = redq(compile=True).learn(30)
    before, other = weights(model), copy.deepcopy(model)
    after = go_on(other)
    assert all(th.equal(value, before[key]) for key, value in weights(model).items())
    assert any(not th.equal(value, before[key]) for key, value in after.items())


@pytest.mark.parametrize("name", ["REDQ", "PGRSAC", "HybridSAC", "IQL"])
def test_a_seed_decides_all_that_follows(name, tmp_path):
    """Batches and generated rows too, which come from generators of their own."""
    MODELS[name]().learn(40).save(tmp_path / "model.zip")
    after = []
    for seed in (7, 7, 8):
        model = MODELS[name]()
        model.set_parameters(tmp_path / "model.zip", device="cpu")
        th.seed()
        model.set_random_seed(seed)
        model.learn(60)
        after.append(th.cat([value.flatten() for _, value in model.policy.named_parameters()]))
    assert th.equal(after[0], after[1]) and not th.equal(after[0], after[2])
