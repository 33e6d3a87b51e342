"""A schedule reaches every optimiser of every algorithm."""

import pytest
from reach import SMALL, Reach, demonstrations

from sb3_pgr import BC, BCQ, CQL, IQL, PGRSAC, REDQ, TD3BC, HybridSAC

NETWORKS = dict(policy_kwargs=dict(net_arch=[8]), device="cpu")


def schedule(left):
    return 1e-3 * left


@pytest.mark.parametrize("algorithm", [TD3BC, CQL, IQL, BCQ, BC])
def test_offline(algorithm):
    data = demonstrations(action_dim=2)
    model = algorithm("MlpPolicy", dataset=data, batch_size=8, block_size=20, learning_rate=schedule, **NETWORKS).learn(100)
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in model._optimizers().items()}
    own = {CQL: {"actor", "ent_coef"}, IQL: {"actor"}}.get(algorithm, set())  # these have schedules of their own
    assert rates.keys() - own
    for name in rates.keys() - own:
        assert rates[name] == pytest.approx(2e-4), name  # that of the last block


@pytest.mark.parametrize("algorithm", [REDQ, PGRSAC, HybridSAC])
def test_online(algorithm):
    if algorithm is HybridSAC:
        model = HybridSAC("MlpPolicy", Reach(), demonstrations(), learning_rate=schedule, **SMALL)
    else:
        options = dict(learning_starts=10, gradient_steps=1, n_critics=2) | NETWORKS
        model = algorithm("MlpPolicy", "Pendulum-v1", learning_rate=schedule, **options)
    model.learn(40)
    expected = schedule(model._current_progress_remaining)
    assert expected < 1e-4
    for optimizer in (model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
