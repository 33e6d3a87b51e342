"""Recording datasets, and scores."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_pgr.common.evaluation import bootstrap_interval, evaluate_episodes, interquartile_mean
from sb3_pgr.offline import load_dataset
from sb3_pgr.offline.collection import collect
from sb3_pgr.offline.dataset import DatasetError, concatenate
from sb3_pgr.offline.readers import save_npz
from sb3_pgr.offline.scores import reference_scores


class Counter(gym.Env):
    """Counts its steps; ends after ``length`` of them, or is cut off; the reward is the action's first number."""

    observation_space = spaces.Box(0, 1000, (2,), np.float32)
    action_space = spaces.Box(np.float32([-2, 0]), np.float32([2, 10]))

    def __init__(self, number=0, length=4, cut=False, interrupt_at=None):
        self.number, self.length, self.cut, self.interrupt_at = number, length, cut, interrupt_at
        self.steps = self.total = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._obs(), {}

    def step(self, action):
        self.steps += 1
        self.total += 1
        if self.total == self.interrupt_at:
            raise KeyboardInterrupt
        over = self.steps == self.length
        return self._obs(), float(action[0]), over and not self.cut, over and self.cut, {}

    def _obs(self):
        return np.float32([self.number, self.steps])


class Half:
    """A policy whose best action is the middle of the box."""

    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        return np.tile(np.float32([0, 5]), (len(obs), 1)), None


class Broken(Counter):
    """Its third episode has a reward that is none."""

    def step(self, action):
        result = super().step(action)
        return (result[0], float("nan"), *result[2:]) if self.total == 9 else result


def envs(*arguments):
    return DummyVecEnv([lambda given=given: Counter(**given) for given in arguments])


@pytest.mark.parametrize("cut", [False, True])
def test_rows_follow_each_other(cut):
    data = collect(envs(dict(number=1, cut=cut), dict(number=2, length=3, cut=cut)), Half(), episodes=5)
    assert sorted(data.episode_lengths) == [3, 3, 3, 4, 4]  # shared out evenly, though one is quicker
    for start, end in zip(data.episode_starts, data.episode_ends):
        number = data.observations[start, 0]
        np.testing.assert_array_equal(data.observations[start : end + 1], [[number, k] for k in range(end - start + 1)])
        np.testing.assert_array_equal(
            data.next_observations[start : end + 1], data.observations[start : end + 1] + np.array([0, 1])
        )
    assert data.terminals.sum() == (0 if cut else 5) and data.timeouts.sum() == (5 if cut else 0)
    np.testing.assert_array_equal(data.actions, np.tile([0, 5], (len(data), 1)))


def test_rows_are_whole_episodes():
    data = collect(envs(dict(), dict(length=7)), Half(), rows=10)
    assert len(data) >= 10 and set(data.episode_lengths) == {4, 7} and data.terminals[-1]


@pytest.mark.parametrize("kind", [NormalActionNoise, OrnsteinUhlenbeckActionNoise])
def test_noise_is_in_scaled_units_and_clipped(kind):
    np.random.seed(0)
    noise = kind(np.zeros(2), np.full(2, 5.0 if kind is NormalActionNoise else 50.0))
    data = collect(envs({}), Half(), rows=400, action_noise=noise)
    assert data.actions[:, 0].min() == -2 and data.actions[:, 0].max() == 2
    assert data.actions[:, 1].min() == 0 and data.actions[:, 1].max() == 10
    np.random.seed(0)
    small = collect(envs({}), Half(), rows=4_000, action_noise=NormalActionNoise(np.zeros(2), np.full(2, 0.1)))
    np.testing.assert_allclose((small.actions - [0, 5]).std(0), [0.2, 0.5], rtol=0.05)
    np.testing.assert_array_equal(small.rewards, small.actions[:, 0])


def test_random_actions():
    data = collect(envs({}, {}), Half(), rows=4_000, random_action_probability=0.3)
    other = (data.actions != [0, 5]).any(1)
    assert other.mean() == pytest.approx(0.3, abs=0.03)
    assert data.actions[other].std(0) == pytest.approx(np.array([4, 10]) / np.sqrt(12), rel=0.05)
    everything = collect(envs({}), None, rows=400)
    assert (everything.actions != [0, 5]).all()
    again = collect(envs({}), None, rows=400)
    assert again.fingerprint == everything.fingerprint
    assert collect(envs({}), None, rows=400, seed=1).fingerprint != everything.fingerprint


def test_long_episodes_are_not_left_out():
    dataset = collect(envs(dict(length=2), dict(length=50)), Half(), rows=4)
    assert 50 in dataset.episode_lengths


def test_noise_starts_anew_with_each_episode():
    class Noise(NormalActionNoise):
        n_resets = 0

        def reset(self):
            Noise.n_resets += 1

    collect(envs(dict(length=2)), Half(), episodes=5, action_noise=Noise(np.zeros(2), np.ones(2)))
    assert Noise.n_resets >= 5


class Remembers:
    """A recurrent policy: its first number is how many steps it has seen of the episode."""

    def predict(self, obs, state=None, episode_start=None, deterministic=True):
        seen = np.zeros(len(obs)) if state is None else state
        seen = np.where(episode_start, 0, seen) + 1
        return np.stack([seen / 10, np.full(len(obs), 5)], 1).astype(np.float32), seen


def test_recurrent_policies_remember_their_episode_and_no_other():
    data = collect(envs(dict(), dict(length=7)), Remembers(), episodes=5)
    np.testing.assert_allclose(data.actions[:, 0] * 10, data.observations[:, 1] + 1, rtol=1e-6)


def test_datasets_of_other_environment_arguments_are_not_joined():
    parts = [collect(envs({}), Half(), episodes=2, metadata={"env_kwargs": {"g": g}}) for g in (1, 2, 1)]
    assert concatenate(parts[::2], "both").metadata["env_kwargs"] == {"g": 1}
    with pytest.raises(DatasetError, match="cannot be joined"):
        concatenate(parts[:2], "both")


def test_interrupting_keeps_finished_episodes(capsys):
    data = collect(envs(dict(interrupt_at=11)), Half(), episodes=100)
    assert len(data.episode_ends) == 2 and "2 finished episodes are kept" in capsys.readouterr().out
    with pytest.raises(ValueError, match="nothing to keep"):
        collect(envs(dict(interrupt_at=2)), Half(), episodes=100)


def test_errors_keep_finished_episodes():
    data = collect(DummyVecEnv([Broken]), Half(), episodes=100)
    assert len(data.episode_ends) == 2 and "nan in its reward" in data.metadata["stopped_by"]


def test_below_vec_normalize_everything_is_raw():
    env = VecNormalize(envs({}, dict(length=3)), clip_obs=0.1)  # clips all, and the last observations too
    seen = []

    class Watch(Half):
        def predict(self, obs, *args, **kwargs):
            seen.append(obs)
            return super().predict(obs)

    data = collect(env, Watch(), episodes=6)
    plain = collect(envs({}, dict(length=3)), Half(), episodes=6)
    assert data.fingerprint == plain.fingerprint
    assert np.abs(np.concatenate(seen)).max() <= 0.1 < plain.observations.max()
    with pytest.raises(ValueError, match="outermost"):
        collect(VecFrameStack(env, 2), Half(), episodes=1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(), "either episodes or rows"),
        (dict(episodes=1, rows=1), "either episodes or rows"),
        (dict(episodes=0), "at least 1"),
        (dict(rows=-3), "at least 1"),
        (dict(rows=5, random_action_probability=1.5), "between 0 and 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        collect(envs({}), Half(), **arguments)


def test_noise_on_discrete_actions_is_refused():
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    with pytest.raises(ValueError, match="Box actions"):
        collect(env, rows=5, action_noise=NormalActionNoise(np.zeros(1), np.ones(1)))
    assert collect(env, rows=30).actions.shape[1:] == ()


def test_mixtures(tmp_path):
    one = collect(envs({}), Half(), episodes=5, env_id="A-v0", metadata={"behaviour": "half"})
    two = collect(envs(dict(length=3, cut=True)), episodes=4, env_id="A-v0", metadata={"behaviour": "random"})
    both = concatenate([one, two.sample_episodes(5, seed=3)], "both")
    assert list(both.episode_lengths) == [4] * 5 + [3] * 2
    assert [part["behaviour"] for part in both.metadata["parts"]] == ["half", "random"]
    save_npz(both, tmp_path / "both.npz")
    loaded = load_dataset(tmp_path / "both.npz")
    assert loaded.fingerprint == both.fingerprint and loaded.env_id == "A-v0" and loaded.action_space == Counter.action_space
    with pytest.raises(DatasetError, match=r"cannot be joined to .*: environment B-v0 there, A-v0 here"):
        concatenate([one, collect(envs({}), episodes=1, env_id="B-v0")], "both")


def test_guessed_ranges_of_actions_are_joined():
    def data(low, high):
        names = ("observations", "next_observations", "rewards", "terminals")
        return load_dataset({name: np.zeros(9) for name in names} | {"actions": np.linspace(low, high, 9)})

    both = concatenate([data(-2, 1), data(0, 3)], "both")
    assert both.action_space == spaces.Box(-2, 3, (1,))
    with pytest.raises(DatasetError, match=r"cannot be joined to arrays: actions Box.*-1.* there, Box.*-2.* here"):
        concatenate([data(-2, 1), data(0, 1)], "both")


def test_reference_scores():
    d4rl = reference_scores("HalfCheetah-v5")
    assert d4rl.normalize(12135.0) == 100 and d4rl.normalize(-280.178953) == 0 and "D4RL-v2" in d4rl.name
    own = reference_scores("HalfCheetah-v5", {"reference": {"name": "ours", "random": 10, "expert": 20}})
    assert own.normalize(15) == 50 and own.name == "ours"
    assert reference_scores("X-v0", {"ref_min_score": 0, "ref_max_score": 4}).normalize(1) == 25
    assert reference_scores("Unknown-v0") is None and reference_scores(None) is None
    assert reference_scores("AdroitHandDoor-v1").low == -56.512833
    assert reference_scores("AdroitHandPen-v1") is None  # its episodes are twice as long as D4RL's
    assert reference_scores("dmc/hopper-hop-v0") is None
    for maze in ("AntMaze_UMaze-v5", "AntMaze_Large_Diverse_GR-v4"):
        assert reference_scores(maze).normalize(0.5) == 50
    maze2d = reference_scores("PointMaze_Medium-v3")
    assert (maze2d.low, maze2d.high, maze2d.name) == (13.13, 277.39, "D4RL-v1 reference on PointMaze_Medium-v3")


def test_statistics_over_seeds():
    assert interquartile_mean([0, 10, 20, 1000]) == 15  # the extremes do not count
    assert interquartile_mean([1, 2, 6]) == 3
    assert np.isnan(interquartile_mean([1, 2, np.nan, 4, 5])) and np.isnan(bootstrap_interval([1, 2, np.nan, 4, 5])).all()
    assert bootstrap_interval([5.0]) is None
    low, high = bootstrap_interval([4.0, 5.0, 6.0, 5.0, 4.5])
    assert 4 < low < 4.9 < high < 6
    np.testing.assert_allclose(bootstrap_interval(np.tile([[1.0, 2.0]], (3, 1))), 1.5)


def test_evaluation_is_repeatable_and_shared_out():
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1", max_episode_steps=20)] * 3)

    class Nothing:
        def predict(self, obs, state=None, episode_start=None, deterministic=True):
            return np.zeros((len(obs), 1), np.float32), None

    first = evaluate_episodes(Nothing(), env, 7)
    assert len(first.returns) == 7 and set(first.lengths) == {20} and len(set(first.returns)) == 7
    np.testing.assert_array_equal(first.returns, evaluate_episodes(Nothing(), env, 7).returns)
    assert not np.array_equal(first.returns, evaluate_episodes(Nothing(), env, 7, seed=3).returns)
