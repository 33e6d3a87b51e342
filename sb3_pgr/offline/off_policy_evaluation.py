"""What a policy is worth, by a dataset alone: fitted Q evaluation, and scores of a model's own critics."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device, obs_as_tensor

from sb3_pgr.common.ensembles import EnsembleMLP
from sb3_pgr.common.optimizers import optimizer_step
from sb3_pgr.common.state import own_randomness
from sb3_pgr.offline.checks import with_spaces
from sb3_pgr.offline.dataset import DatasetError, OfflineDataset, take
from sb3_pgr.offline.readers import load_dataset
from sb3_pgr.offline.transforms import DatasetNormExtractor

CHUNK = 512  # rows of a prediction; BCQ weighs a hundred candidates for each


class FQE:
    """
    Fitted Q evaluation (Le et al. 2019, https://arxiv.org/abs/1903.08738; with a target network as in Paine et al. 2020,
    https://arxiv.org/abs/2007.09055): the value of a model's deterministic policy, from a dataset of another one.

    ``Q(s, a)`` is regressed on ``r + gamma Q_target(s', pi(s'))``, without the second term where a terminal is; time-outs
    bootstrap. Rewards are the dataset's, whatever map the model learned with; the policy is the one at construction.
    Targets are Polyak averages: after copies every N updates, an estimate would depend on where in a period the fit stops. A
    fit takes several times ``1 / (tau (1 - gamma))`` updates.

    :param model: whose policy is evaluated, with its ``VecNormalize`` (``set_env``) if it was trained in one
    :param dataset: whatever ``load_dataset`` takes
    :param gamma: discount, by default the model's
    :param learning_rate: of Adam
    :param batch_size: rows of an update
    :param tau: of the target networks
    :param n_critics: independent fits, each with its own target, whose mean is the estimate
    :param net_arch: hidden widths
    :param seed: of weights and batches; global generators are not touched
    :param device: of the fit; the policy stays on the model's
    :raises DatasetError: if the dataset does not fit the model's spaces, or holds no episodes but single transitions alone
    :raises ValueError: if spaces are not ``Box`` (or ``Dict`` of such, for observations), or a number is out of range
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        dataset: Any,
        gamma: float | None = None,
        learning_rate: float = 1e-4,
        batch_size: int = 256,
        tau: float = 0.005,
        n_critics: int = 2,
        net_arch: Sequence[int] = (256, 256),
        seed: int = 0,
        device: th.device | str = "auto",
    ):
        gamma = model.gamma if gamma is None else gamma  # type: ignore[attr-defined]
        if not (0 <= gamma <= 1 and 0 < tau <= 1 and batch_size > 0 and n_critics > 0 and learning_rate > 0):
            raise ValueError(f"Need 0 <= {gamma=} <= 1, 0 < {tau=} <= 1; {batch_size=}, {n_critics=}, {learning_rate=} > 0.")
        dataset = _fitting(model, dataset)
        self.gamma, self.batch_size, self.tau = gamma, batch_size, tau
        self.device, self.policy = get_device(device), model.policy
        self.generator = th.Generator(self.device).manual_seed(seed)
        self._load(model, dataset)
        with own_randomness(seed, th.device("cpu")):
            self.critic = EnsembleMLP(n_critics, self._rows.shape[1], list(net_arch)).to(self.device)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.optimizer = th.optim.Adam(self.critic.parameters(), learning_rate, fused=True)

    def _load(self, model: BaseAlgorithm, dataset: OfflineDataset) -> None:
        """Everything that updates read, on the device."""
        self.extractor = DatasetNormExtractor(model.observation_space).to(self.device)
        self.extractor.fit(dataset)
        starts = take(dataset.observations, _first_rows(dataset))
        self._starts = self._inputs(starts, _policy_actions(model, starts))
        self._rows = self._inputs(dataset.observations, _scaled(self.policy, dataset.actions))
        self._next_rows = self._inputs(dataset.next_observations, _policy_actions(model, dataset.next_observations))
        self._rewards, self._terminals = (th.as_tensor(x, device=self.device) for x in (dataset.rewards, dataset.terminals))
        # Networks start at the values of the dataset's own policy and see numbers near one, whatever the unit of rewards.
        returns = dataset.returns_to_go(self.gamma)[dataset.played[dataset.episodes]]
        self._offset = float(returns.mean())
        self._scale = max(float(returns.std()), 0.1 * abs(self._offset)) or 1.0

    def _inputs(self, observations: Any, actions: np.ndarray) -> th.Tensor:
        features = self.extractor(obs_as_tensor(observations, self.device))
        return th.cat([features, th.as_tensor(actions, device=self.device)], 1)

    def _q_values(self, network: EnsembleMLP, inputs: th.Tensor) -> th.Tensor:
        """``(n_critics, batch)`` in units of the rewards."""
        return self._offset + self._scale * network(inputs).squeeze(-1)

    def fit(self, n_updates: int, progress_bar: bool = False) -> float:
        """
        Update; further calls go on from there.

        :param progress_bar: show one (needs tqdm)
        :return: squared error to the targets, mean over updates, critics and rows
        """
        if n_updates < 1:
            raise ValueError(f"{n_updates=} must be at least 1.")
        updates: Iterable[int] = range(n_updates)
        if progress_bar:
            from tqdm import tqdm

            updates = tqdm(updates, desc="FQE")
        followed = [parameter.detach() for parameter in self.critic.parameters()]
        targets: list[th.Tensor] = list(self.critic_target.parameters())
        total = th.zeros((), device=self.device)
        for _ in updates:
            rows = th.randint(len(self._rewards), (self.batch_size,), generator=self.generator, device=self.device)
            with th.no_grad():
                next_q = self._q_values(self.critic_target, self._next_rows[rows]).masked_fill(self._terminals[rows], 0)
                target = self._rewards[rows] + self.gamma * next_q
            loss = ((self._q_values(self.critic, self._rows[rows]) - target) / self._scale).pow(2).mean(1).sum()
            optimizer_step(self.optimizer, loss)
            th._foreach_lerp_(targets, followed, self.tau)
            total += loss.detach()
        return float(total) * self._scale**2 / (n_updates * len(next_q))

    def value(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """
        Discounted return of these actions, followed by the policy's; mean of the critics ``(batch,)``.

        :param observations: raw, ``(batch, ...)`` or a dict of such
        :param actions: in units of the environment, ``(batch, *action_shape)``
        """
        return self._mean(self._inputs(observations, _scaled(self.policy, np.asarray(actions, np.float32))))

    def initial_value(self) -> float:
        """Discounted return of the policy, mean over the first observations of the dataset's episodes."""
        return float(self._mean(self._starts).mean(dtype=np.float64))

    @th.no_grad()
    def _mean(self, inputs: th.Tensor) -> np.ndarray:
        return th.cat([self._q_values(self.critic, part).mean(0) for part in inputs.split(CHUNK)]).cpu().numpy()


def off_policy_scores(
    model: BaseAlgorithm, dataset: Any, return_threshold: float | None = None, quantile: float = 0.9
) -> dict[str, float]:
    """
    ``td_error``, ``initial_value``, ``average_value``, ``soft_opc`` and ``action_difference``, of which a model without
    critics supports the last alone; single transitions have no ``initial_value`` and no ``soft_opc``. Parameters and errors
    are those of ``soft_opc``.
    """
    rows, scores = _Rows(model, dataset), dict[str, float]()
    if hasattr(getattr(model.policy, "critic", None), "q_values"):
        episodes = rows.dataset.played.any()
        scores["td_error"] = rows.td_error()
        if episodes:
            scores["initial_value"] = float(rows.q_policy[_first_rows(rows.dataset)].mean())
        scores["average_value"] = float(rows.q_policy.mean())
        if episodes:
            scores["soft_opc"] = rows.soft_opc(return_threshold, quantile)
    return scores | {"action_difference": rows.action_difference()}


def td_error(model: BaseAlgorithm, dataset: Any) -> float:
    """
    Mean of ``(Q(s, a) - r - gamma Q(s', pi(s')))^2``, where Q is the mean of the critics, r the reward through the model's
    map or its ``VecNormalize``, and the value after a terminal 0.

    :param model: with critics that have ``q_values``
    :param dataset: whatever ``load_dataset`` takes
    :raises DatasetError: if the dataset does not fit the model's spaces
    :raises ValueError: if the model has no such critics
    """
    return _Rows(model, dataset).td_error()


def initial_value(model: BaseAlgorithm, dataset: Any) -> float:
    """Mean of ``Q(s, pi(s))`` where episodes start, in rewards through the model's map; otherwise as ``td_error``."""
    dataset = _fitting(model, dataset)
    starts = take(dataset.observations, _first_rows(dataset))
    return float(_q_values(model, starts, _policy_actions(model, starts)).mean())


def average_value(model: BaseAlgorithm, dataset: Any) -> float:
    """Mean of ``Q(s, pi(s))`` over all rows, in rewards through the model's map; otherwise as ``td_error``."""
    return float(_Rows(model, dataset).q_policy.mean())


def soft_opc(model: BaseAlgorithm, dataset: Any, return_threshold: float | None = None, quantile: float = 0.9) -> float:
    """
    Soft off-policy classification (Irpan et al. 2019, https://arxiv.org/abs/1906.01624): mean of ``Q(s, a)`` over the rows of
    successful episodes, less that over those of all episodes. Otherwise as ``td_error``.

    :param return_threshold: undiscounted return, in the dataset's rewards, from which an episode is a success
    :param quantile: of the returns, which is the threshold if none is given
    :raises ValueError: if ``quantile`` is not between 0 and 1, or (a ``DatasetError``) no episode is a success
    """
    return _Rows(model, dataset).soft_opc(return_threshold, quantile)


def action_difference(model: BaseAlgorithm, dataset: Any) -> float:
    """Mean over rows of ``|pi(s) - a|^2`` for actions in [-1, 1]; needs no critic, otherwise as ``td_error``."""
    return _Rows(model, dataset).action_difference()


class _Rows:
    """What scores need of each row ``(n,)``, computed when first asked for."""

    def __init__(self, model: BaseAlgorithm, dataset: Any):
        self.model, self.dataset = model, _fitting(model, dataset)
        self.actions = _scaled(model.policy, self.dataset.actions)

    @cached_property
    def policy_actions(self) -> np.ndarray:
        return _policy_actions(self.model, self.dataset.observations)

    @cached_property
    def q_data(self) -> np.ndarray:
        return _q_values(self.model, self.dataset.observations, self.actions)

    @cached_property
    def q_policy(self) -> np.ndarray:
        return _q_values(self.model, self.dataset.observations, self.policy_actions)

    def td_error(self) -> float:
        following = self.dataset.next_observations
        next_q = _q_values(self.model, following, _policy_actions(self.model, following))
        normalize = self.model.get_vec_normalize_env()
        rewards = self.dataset.rewards.astype(np.float64)
        rewards = rewards if normalize is None else normalize.normalize_reward(rewards)
        targets = getattr(self.model, "reward_scale", 1.0) * rewards
        targets += getattr(self.model, "reward_shift", 0.0)
        targets += self.model.gamma * np.where(self.dataset.terminals, 0, next_q)  # type: ignore[attr-defined]
        return float(np.square(self.q_data - targets).mean())

    def soft_opc(self, return_threshold: float | None, quantile: float) -> float:
        _first_rows(self.dataset)  # there are some
        returns, played = self.dataset.episode_returns, self.dataset.played
        if return_threshold is None:
            if not 0 <= quantile <= 1:
                raise ValueError(f"{quantile=} must be between 0 and 1.")
            return_threshold = float(np.quantile(returns[played], quantile))
        success = returns >= return_threshold
        if not success.any():
            found = f"the best of {played.sum()} episodes returns {returns[played].max():.6g}, not {return_threshold}"
            raise DatasetError(f"{self.dataset.source}: {found}.")
        of_success, of_all = (self.q_data[chosen[self.dataset.episodes]].mean() for chosen in (success, played))
        return float(of_success - of_all)

    def action_difference(self) -> float:
        return float(np.square(self.policy_actions - self.actions, dtype=np.float64).sum(1).mean())


def _fitting(model: BaseAlgorithm, dataset: Any) -> OfflineDataset:
    """Loaded, and checked against the model's spaces: those that a dataset suggests may be narrower."""
    given = model.observation_space, model.action_space
    parts = given[0].values() if isinstance(given[0], spaces.Dict) else [given[0]]
    if not all(isinstance(part, spaces.Box) for part in (*parts, given[1])):
        raise ValueError(f"{type(model).__name__} must have observations and actions in a Box, not {given[0]}, {given[1]}.")
    return with_spaces(load_dataset(dataset, *given), *given)


def _first_rows(dataset: OfflineDataset) -> np.ndarray:
    """
    Of each episode that was played.

    :raises DatasetError: if there are none
    """
    if not dataset.played.any():
        raise DatasetError(f"{dataset.source} is of single transitions: there are no episodes to judge by.")
    return dataset.episode_starts[dataset.played]


def _scaled(policy: BasePolicy, actions: np.ndarray) -> np.ndarray:
    """From units of the environment to [-1, 1], float32 ``(n, action_dim)``, whatever type the space's bounds are of."""
    return policy.scale_action(actions).reshape(len(actions), -1).astype(np.float32)


def _policy_actions(model: BaseAlgorithm, observations: Any) -> np.ndarray:
    """Of the deterministic policy, in [-1, 1], ``(n, action_dim)``."""
    with _evaluation_mode(model.policy):
        parts = [
            model.predict(_seen(model, take(observations, rows)), deterministic=True)[0] for rows in _chunks(observations)
        ]
    return _scaled(model.policy, np.concatenate(parts))


def _q_values(model: BaseAlgorithm, observations: Any, actions: np.ndarray) -> np.ndarray:
    """Mean of the critics ``(n,)``, for actions in [-1, 1]."""
    critic: Any = getattr(model.policy, "critic", None)
    if not hasattr(critic, "q_values"):
        raise ValueError(f"{type(model).__name__} has no critic with q_values, which this score needs.")
    means = []
    with _evaluation_mode(model.policy):
        for rows in _chunks(observations):
            obs, _ = model.policy.obs_to_tensor(_seen(model, take(observations, rows)))
            means.append(critic.q_values(obs, th.as_tensor(actions[rows], device=critic.device)).mean(0))
    return th.cat(means).cpu().numpy().astype(np.float64)


def _seen(model: BaseAlgorithm, observations: Any) -> Any:
    """By the policy, which ``VecNormalize`` may come before."""
    normalize = model.get_vec_normalize_env()
    return observations if normalize is None else normalize.normalize_obs(observations)


def _chunks(observations: Any) -> list[np.ndarray]:
    """Rows, in parts."""
    n = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
    return np.split(np.arange(n), range(CHUNK, n, CHUNK))


@contextmanager
def _evaluation_mode(policy: BasePolicy) -> Iterator[None]:
    modes = [(module, module.training) for module in policy.modules()]  # targets may differ from what follows them
    policy.set_training_mode(False)
    try:
        with th.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
