"""What happened in the last episodes."""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgr.common.checks import check_counts

Metric = Callable[[float, Mapping[str, Any]], float]

TERMINATED, TRUNCATED = "terminated", "truncated"


class EpisodeStats:
    """
    Returns, lengths, further metrics and ends of episodes, over a window of the last ones.

    .. code-block:: python

        stats = EpisodeStats(n_envs=4, info_keys=("distance",))
        stats.step(rewards, terminated, truncated, infos)  # after every step of the environments
        stats.summary()["return"]["mean"]

    :param n_envs: number of environments
    :param window: number of the newest finished episodes that count, over all environments
    :param info_keys: entries of ``info`` to sum over an episode
    :param metrics: further metrics of an episode: functions ``(reward, info) -> number`` of a step, summed likewise
    :param reason_key: entry of ``info`` that names why an episode ended; without it the reason is ``"terminated"`` or
        ``"truncated"``
    """

    def __init__(
        self,
        n_envs: int = 1,
        window: int = 100,
        info_keys: Sequence[str] = (),
        metrics: Mapping[str, Metric] | None = None,
        reason_key: str = "termination_reason",
    ):
        check_counts(n_envs=n_envs, window=window)
        self.n_envs, self.window, self.reason_key = n_envs, window, reason_key
        self.metrics: dict[str, Metric] = {key: partial(_from_info, key) for key in info_keys} | dict(metrics or {})
        reserved = {"return", "length"} & self.metrics.keys()
        if reserved:
            raise ValueError(f"Metrics must not be called {sorted(reserved)}.")
        self._names = ["return", "length", *self.metrics]
        self._running = np.zeros((n_envs, len(self._names)))
        self.n_episodes = np.zeros(n_envs, np.int64)
        # Of each finished episode: environment, reason, values.
        self._finished: deque[tuple[int, str, np.ndarray]] = deque(maxlen=window)

    def step(self, rewards: Any, terminated: Any, truncated: Any, infos: Sequence[Mapping[str, Any]] | None = None) -> None:
        """
        Count one step of each environment.

        :param rewards: ``(n_envs,)``
        :param terminated: ``(n_envs,)``
        :param truncated: ``(n_envs,)``
        :param infos: of each environment
        """
        rewards = np.asarray(rewards, np.float64).reshape(self.n_envs)
        infos = [{}] * self.n_envs if infos is None else infos
        pairs = list(zip(rewards, infos, strict=True))
        columns = [[metric(*pair) for pair in pairs] for metric in self.metrics.values()]
        self._running += np.stack([rewards, np.ones(self.n_envs), *columns], 1)
        terminated = np.asarray(terminated, bool).reshape(self.n_envs)
        for env in np.flatnonzero(terminated | np.asarray(truncated, bool).reshape(self.n_envs)):
            reason = infos[int(env)].get(self.reason_key, TERMINATED if terminated[env] else TRUNCATED)
            self._finished.append((int(env), str(reason), self._running[env].copy()))
            self._running[env] = 0
            self.n_episodes[env] += 1

    def episodes(self, env: int | None = None) -> dict[str, np.ndarray]:
        """Each metric of the episodes in the window, oldest first; of all environments or of one."""
        values = [row for number, _, row in self._finished if env is None or number == env]
        table = np.array(values).reshape(len(values), len(self._names))
        return dict(zip(self._names, table.T, strict=True))

    def summary(self, env: int | None = None) -> dict[str, dict[str, float]]:
        """
        Mean, standard deviation, smallest and largest value of each metric; empty before the first episode has ended.

        :param env: of this environment only
        """
        functions: dict[str, Any] = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
        return {
            name: {which: float(function(values)) for which, function in functions.items()}
            for name, values in self.episodes(env).items()
            if len(values)
        }

    def reasons(self, env: int | None = None) -> dict[str, int]:
        """How often each reason ended an episode in the window."""
        return dict(Counter(reason for number, reason, _ in self._finished if env is None or number == env))

    def begin(self) -> None:
        """Forget the beginnings of the running episodes: all environments were reset."""
        self._running[:] = 0

    def reset(self) -> None:
        """Forget everything."""
        self.begin()
        self.n_episodes[:] = 0
        self._finished.clear()


class EpisodeStatsCallback(BaseCallback):
    """
    Keeps ``EpisodeStats`` of a training run and writes them to SB3's logger, as ``episodes/<metric>_<mean|std|min|max>``
    and ``episodes/<reason>`` (the share of episodes that ended so).

    :param kwargs: arguments of ``EpisodeStats``, without ``n_envs``
    """

    def __init__(self, verbose: int = 0, **kwargs: Any):
        super().__init__(verbose)
        self._kwargs = kwargs
        self._env: VecEnv | None = None
        self.stats = EpisodeStats(**kwargs)

    def _init_callback(self) -> None:
        env = self.training_env
        if self._env is None or self.model.num_timesteps == 0 or env.num_envs != self.stats.n_envs:  # else learning goes on
            self.stats = EpisodeStats(n_envs=env.num_envs, **self._kwargs)
        elif env is not self._env:
            self.stats.begin()
        self._env = env

    def _on_step(self) -> bool:
        if "rewards" not in self.locals:  # learning offline
            return True
        infos, dones = self.locals["infos"], np.asarray(self.locals["dones"], bool)
        truncated = dones & np.array([info.get("TimeLimit.truncated", False) for info in infos])
        before = self.stats.n_episodes.sum()
        self.stats.step(self._rewards(), dones & ~truncated, truncated, infos)
        if self.stats.n_episodes.sum() > before:
            self._record()
        return True

    def _rewards(self) -> Any:
        normalize = self.model.get_vec_normalize_env()
        return self.locals["rewards"] if normalize is None else normalize.get_original_reward()

    def _record(self) -> None:
        for name, values in self.stats.summary().items():
            for which, value in values.items():
                self.logger.record(f"episodes/{name}_{which}", value)
        reasons = self.stats.reasons()
        for reason, count in reasons.items():
            self.logger.record(f"episodes/{reason}", count / sum(reasons.values()))


def _from_info(key: str, reward: float, info: Mapping[str, Any]) -> float:
    try:
        return float(info.get(key, 0.0))
    except (TypeError, ValueError):
        raise ValueError(f"info[{key!r}] is {info[key]!r}, not a number.") from None
