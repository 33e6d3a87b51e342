import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr import BC
from sb3_pgr.buffers import EpisodeStats, EpisodeStatsCallback


@settings(max_examples=40, deadline=None)
@given(n_envs=st.integers(1, 3), steps=st.integers(1, 60), window=st.integers(1, 8), seed=st.integers(0, 1000))
def test_against_lists(n_envs, steps, window, seed):
    rng = np.random.default_rng(seed)
    stats = EpisodeStats(n_envs, window, info_keys=("cost",), metrics={"steps_down": lambda reward, info: reward < 0})
    running, finished = [[] for _ in range(n_envs)], []
    for _ in range(steps):
        rewards, ends = rng.normal(size=n_envs), rng.random((2, n_envs)) < 0.2
        infos = [{"cost": float(cost)} if cost > 0 else {} for cost in rng.normal(size=n_envs)]
        if rng.random() < 0.3:
            infos[0]["termination_reason"] = "fell over"
        stats.step(rewards, *ends, infos)
        for env in range(n_envs):
            running[env].append((rewards[env], infos[env].get("cost", 0.0)))
            if ends[:, env].any():
                reason = infos[env].get("termination_reason", "terminated" if ends[0, env] else "truncated")
                finished.append((env, reason, running[env]))
                running[env] = []
    for env in (None, *range(n_envs)):
        kept = [episode for episode in finished[-window:] if env in (None, episode[0])]
        summary = stats.summary(env)
        if not kept:
            assert summary == {} and stats.reasons(env) == {}
            continue
        returns = [sum(reward for reward, _ in rows) for _, _, rows in kept]
        costs = [sum(cost for _, cost in rows) for _, _, rows in kept]
        lengths, downs = [len(rows) for _, _, rows in kept], [sum(r < 0 for r, _ in rows) for _, _, rows in kept]
        for name, values in (("return", returns), ("cost", costs), ("length", lengths), ("steps_down", downs)):
            expected = dict(mean=np.mean(values), std=np.std(values), min=min(values), max=max(values))
            assert summary[name] == pytest.approx(expected)
        reasons = [reason for _, reason, _ in kept]
        assert stats.reasons(env) == {reason: reasons.count(reason) for reason in set(reasons)}
    assert stats.n_episodes.sum() == len(finished)
    assert pickle.loads(pickle.dumps(EpisodeStats(2, info_keys=("cost",)))).window == 100


@pytest.mark.parametrize(
    "kwargs, message",
    [(dict(n_envs=0), "n_envs=0"), (dict(window=0), "window=0"), (dict(info_keys=["length"]), "length")],
    ids=str,
)
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        EpisodeStats(**kwargs)


def test_wrong_shapes_are_told():
    with pytest.raises(ValueError):
        EpisodeStats(2).step([1.0], [False], [False])
    stats = EpisodeStats(1, info_keys=("cost",))
    with pytest.raises(ValueError, match="info\\['cost'\\] is None"):
        stats.step(1.0, False, False, [{"cost": None}])
    with pytest.raises(ValueError, match="info\\['cost'\\] is 'fell', not a number"):
        stats.step(1.0, False, False, [{"cost": "fell"}])
    assert not stats._running.any()
    stats.step(1.0, False, True)
    stats.reset()
    assert stats.summary() == {} and stats.n_episodes.sum() == 0


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("algo", [PPO, SAC])
def test_callback_writes_the_log(algo, normalize, tmp_path):
    env = make_vec_env("Pendulum-v1", n_envs=2)
    env = VecNormalize(env) if normalize else env
    kwargs = dict(n_steps=100) if algo is PPO else dict(learning_starts=10_000)
    model = algo("MlpPolicy", env, **kwargs)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    callback = EpisodeStatsCallback()
    model.learn(450, callback=callback, log_interval=1)
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    assert "episodes/return_mean" in header and rows
    returns = callback.stats.episodes()["return"]
    # Monitor, inside of VecNormalize, saw the same.
    np.testing.assert_allclose(returns, [info["r"] for info in model.ep_info_buffer], rtol=1e-4)
    assert callback.stats.summary()["length"]["max"] == 200 and callback.stats.reasons() == {"truncated": len(returns)}


def test_callback_goes_on_where_learning_does():
    """An episode that runs over two calls of ``learn`` is one; another environment, and learning anew, begin others."""
    model, callback = SAC("MlpPolicy", make_vec_env("Pendulum-v1"), learning_starts=10_000), EpisodeStatsCallback()
    model.learn(250, callback=callback)
    model.learn(250, callback=callback, reset_num_timesteps=False)
    assert callback.stats.episodes()["length"].tolist() == [200, 200]
    model.set_env(make_vec_env("Pendulum-v1"))
    model.learn(250, callback=callback, reset_num_timesteps=False)
    assert callback.stats.episodes()["length"].tolist() == [200, 200, 200]
    model.learn(250, callback=callback)
    assert callback.stats.episodes()["length"].tolist() == [200]


def test_callback_has_nothing_to_count_offline():
    rows = {name: np.zeros((40, 2), np.float32) for name in ("observations", "next_observations", "actions")}
    callback = EpisodeStatsCallback()
    BC("MlpPolicy", dataset=rows | {"rewards": np.zeros(40), "terminals": np.arange(40) == 39}).learn(20, callback=callback)
    assert callback.stats.summary() == {}
