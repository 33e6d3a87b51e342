"""Relevance functions: which transitions are worth learning from."""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch as th
from torch import nn

from sb3_pgr.common.device import widest_float
from sb3_pgr.generative.critics import ModelValues
from sb3_pgr.generative.curiosity import CuriosityNetwork, DistillationNetwork
from sb3_pgr.generative.normalizers import chosen

Transitions = Mapping[str, th.Tensor]


class Relevance:
    """
    Gives every transition a number; the generator is asked for transitions with high ones.

    To write your own, define ``values``. Transitions are a dict of tensors of ``n`` rows: ``observations (n, obs_dim)``
    and ``next_observations``, flat and as the environment gave them; ``actions (n, action_dim)`` in [-1, 1] (discrete ones
    as an index ``(n, 1)``); ``rewards (n, 1)``; ``dones (n, 1)``, true ends alone; ``episode_ends (n, 1)``, time limits
    too. Real rows come in the order of their collection, one environment after the other.
    """

    update_every: int = 0
    """Transitions per training step (``update``); 0 if there is nothing to train."""
    batch_size: int = 256
    """Rows of a training step."""
    unconditional: ClassVar[bool] = False
    """All transitions are alike: the generator needs no condition."""
    of_real_rows_only: ClassVar[bool] = False
    """Needs the order of real rows, so that generated ones have no value."""
    needs_model: ClassVar[bool] = False
    """Needs ``self.model``, the values and actions of the learning algorithm."""

    model: ModelValues | None = None

    def setup(self, obs_dim: int, action_dim: int, n_actions: int, device: th.device) -> None:
        """Build what there is to build (global random numbers are kept aside); ``n_actions`` is 0 for continuous ones."""

    def update(self, transitions: Transitions) -> dict[str, float]:
        """One training step on ``batch_size`` real rows; returns what is worth logging."""
        return {}

    def observe(self, real: Transitions) -> None:
        """All real rows, before their values are asked for; for what compares with them."""

    def values(self, transitions: Transitions) -> th.Tensor:
        """Relevance of each row ``(n,)``, finite."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What training has changed."""
        return {}

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Put back what ``state_dict`` returned."""


class _Trained(Relevance):
    """With a network that learns from real rows as they come."""

    network: nn.Module
    _action_classes = 0

    def __init__(self, update_every: int, batch_size: int, learning_rate: float, normalize: bool):
        if update_every < 1 or batch_size < 2:
            raise ValueError(f"update_every={update_every} must be at least 1 and batch_size={batch_size} at least 2.")
        self.update_every, self.batch_size, self.learning_rate, self.normalize = (
            update_every,
            batch_size,
            learning_rate,
            normalize,
        )

    def _train(self, network: nn.Module, obs_dim: int, device: th.device) -> None:
        self.network = network.to(device)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = th.optim.Adam(parameters, self.learning_rate)
        self._mean, self._scale = th.zeros(obs_dim, device=device), th.ones(obs_dim, device=device)
        self._n_updates = 0

    def update(self, transitions: Transitions) -> dict[str, float]:
        if self.normalize:
            self._follow(transitions["observations"])
        self.network.train()
        loss = self._loss(transitions)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"relevance_loss": loss.item()}

    def _follow(self, obs: th.Tensor) -> None:
        """Move mean and scale of observations towards those of the batch: an average at first, then slowly."""
        self._n_updates += 1
        weight = max(1 / self._n_updates, 0.001)
        self._mean = self._mean.lerp(obs.mean(0), weight)
        self._scale = self._scale.lerp(obs.std(0) + 1e-3, weight)

    def _scaled(self, obs: th.Tensor) -> th.Tensor:
        return ((obs - self._mean) / self._scale).clamp(-10, 10) if self.normalize else obs

    def _loss(self, transitions: Transitions) -> th.Tensor:
        raise NotImplementedError

    def _surprise(self, transitions: Transitions) -> th.Tensor:
        raise NotImplementedError

    @th.no_grad()
    def values(self, transitions: Transitions) -> th.Tensor:
        self.network.eval()
        n = len(transitions["rewards"])
        parts = [{name: rows[i : i + 10_000] for name, rows in transitions.items()} for i in range(0, n, 10_000)]
        return th.cat([self._surprise(part) for part in parts])

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaling": {"mean": self._mean, "scale": self._scale, "n_updates": self._n_updates},
        }

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it would share the moments otherwise
        scaling = state["scaling"]
        self._mean, self._scale = scaling["mean"].to(self._mean), scaling["scale"].to(self._scale)
        self._n_updates = scaling["n_updates"]


class Curiosity(_Trained):
    """
    Error of a learned forward model in a feature space (``CuriosityNetwork``), the relevance of the PGR paper (eq. 5).

    Its own sizes are ``Curiosity(hidden_dim=256, shared_residual=True, update_every=1, normalize=False)``.

    :param hidden_dim: width of all layers
    :param shared_residual: all residual layers share their weights, as in the official code
    :param update_every: transitions per training step
    :param batch_size: rows of a training step
    :param learning_rate: of Adam
    :param normalize: standardise observations, so that each counts alike
    """

    network: CuriosityNetwork

    def __init__(
        self,
        hidden_dim: int = 128,
        shared_residual: bool = False,
        update_every: int = 10,
        batch_size: int = 256,
        learning_rate: float = 3e-4,
        normalize: bool = True,
    ):
        super().__init__(update_every, batch_size, learning_rate, normalize)
        self.hidden_dim, self.shared_residual = hidden_dim, shared_residual

    def setup(self, obs_dim: int, action_dim: int, n_actions: int, device: th.device) -> None:
        network = CuriosityNetwork(obs_dim, n_actions or action_dim, self.hidden_dim, shared_residual=self.shared_residual)
        self._action_classes = n_actions
        self._train(network, obs_dim, device)

    def _inputs(self, transitions: Transitions) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        actions = transitions["actions"]
        if self._action_classes:
            actions = nn.functional.one_hot(actions.long().flatten(), self._action_classes)
        obs, next_obs = transitions["observations"], transitions["next_observations"]
        return self._scaled(obs), actions.float(), self._scaled(next_obs)

    def _loss(self, transitions: Transitions) -> th.Tensor:
        return self.network.loss(*self._inputs(transitions))

    def _surprise(self, transitions: Transitions) -> th.Tensor:
        return self.network.surprise(*self._inputs(transitions))


class RND(_Trained):
    """
    Error in predicting what a random network says of the next observation (``DistillationNetwork``).

    :param hidden_dim: width of the hidden layers
    :param out_features: numbers that the random network gives
    :param update_every: transitions per training step
    :param batch_size: rows of a training step
    :param learning_rate: of Adam
    :param normalize: standardise observations, without which a random network hardly sees the small ones
    """

    network: DistillationNetwork

    def __init__(
        self,
        hidden_dim: int = 128,
        out_features: int = 64,
        update_every: int = 10,
        batch_size: int = 256,
        learning_rate: float = 3e-4,
        normalize: bool = True,
    ):
        super().__init__(update_every, batch_size, learning_rate, normalize)
        self.hidden_dim, self.out_features = hidden_dim, out_features

    def setup(self, obs_dim: int, action_dim: int, n_actions: int, device: th.device) -> None:
        self._train(DistillationNetwork(obs_dim, self.hidden_dim, self.out_features), obs_dim, device)

    def _loss(self, transitions: Transitions) -> th.Tensor:
        return self._surprise(transitions).mean()

    def _surprise(self, transitions: Transitions) -> th.Tensor:
        return self.network.surprise(self._scaled(transitions["next_observations"]))


class Reward(Relevance):
    """The reward of the transition."""

    def values(self, transitions: Transitions) -> th.Tensor:
        return transitions["rewards"].flatten()


class ReturnToGo(Relevance):
    """Sum of the rewards from the transition to the end of its episode, or to the newest row of one still running."""

    of_real_rows_only = True

    def values(self, transitions: Transitions) -> th.Tensor:
        rewards, ends = transitions["rewards"].flatten(), transitions["episode_ends"].flatten()
        rewards = rewards.to(widest_float(rewards.device))
        total = rewards.cumsum(0)
        last = ends.clone()
        last[-1] = 1
        places = last.nonzero().flatten()
        end_of_row = places[th.searchsorted(places, th.arange(len(rewards), device=rewards.device))]
        return (total[end_of_row] - total + rewards).float()


class Value(Relevance):
    """Value ``Q(s, pi(s))`` of the state under the learning algorithm's critics (PGR, eq. 3)."""

    needs_model = True

    def values(self, transitions: Transitions) -> th.Tensor:
        assert self.model is not None
        return self.model.state_values(transitions["observations"])


class TDError(Relevance):
    """
    Temporal-difference error of the learning algorithm (PGR, eq. 4).

    :param signed: keep the sign, as the formula of the paper does, instead of the absolute value
    """

    needs_model = True

    def __init__(self, signed: bool = False):
        self.signed = signed

    def values(self, transitions: Transitions) -> th.Tensor:
        assert self.model is not None
        error = self.model.td_errors(transitions)
        return error if self.signed else error.abs()


class Novelty(Relevance):
    """
    Mean distance of the observation to its nearest neighbours among the real rows, in standard deviations.

    :param n_neighbors: number of neighbours
    :param n_reference: real rows that are looked at, evenly spread over time
    """

    def __init__(self, n_neighbors: int = 10, n_reference: int = 5_000):
        if n_neighbors < 1 or n_reference < n_neighbors:
            raise ValueError(f"n_neighbors={n_neighbors} must be between 1 and n_reference={n_reference}.")
        self.n_neighbors, self.n_reference = n_neighbors, n_reference
        self._reference: th.Tensor | None = None

    def observe(self, real: Transitions) -> None:
        obs = real["observations"]
        self._mean, self._scale = obs.mean(0), obs.std(0) + 1e-6
        chosen_rows = th.linspace(0, len(obs) - 1, min(self.n_reference, len(obs)), device=obs.device).long()
        self._reference = (obs[chosen_rows] - self._mean) / self._scale

    def values(self, transitions: Transitions) -> th.Tensor:
        if self._reference is None:
            raise RuntimeError("Novelty is of real rows: call observe(real) first.")
        rows = (transitions["observations"] - self._mean) / self._scale
        k = min(self.n_neighbors, len(self._reference) - 1)
        if k < 1:
            return rows.new_zeros(len(rows))
        nearest = th.cat([self._nearest(part, k + 1) for part in rows.split(1_000)])
        itself = nearest[:, :1] < 1e-6  # of a reference row, the nearest is the row itself: it does not count
        return th.where(itself, nearest[:, 1:], nearest[:, :-1]).mean(1)

    def _nearest(self, rows: th.Tensor, k: int) -> th.Tensor:
        assert self._reference is not None
        distances = th.cdist(rows, self._reference, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.topk(k, largest=False, sorted=True).values


class Uniform(Relevance):
    """All transitions alike: the generator is unconditional, which is SynthER (Lu et al. 2023)."""

    unconditional = True

    def values(self, transitions: Transitions) -> th.Tensor:
        return th.zeros(len(transitions["rewards"]), device=transitions["rewards"].device)


RELEVANCE: dict[str, type[Relevance]] = {
    "curiosity": Curiosity,
    "rnd": RND,
    "reward": Reward,
    "return": Value,
    "return_to_go": ReturnToGo,
    "td_error": TDError,
    "novelty": Novelty,
    "uniform": Uniform,
}


def make_relevance(relevance: str | dict[str, Any] | Relevance) -> Relevance:
    """
    :param relevance: a name; a mapping with ``name`` and the arguments of that class; or an instance, of which a copy is
        made, so that one may serve several buffers
    :raises ValueError: if the name is not known or the arguments do not fit
    """
    if isinstance(relevance, Relevance):
        return copy.deepcopy(relevance)
    settings = {"name": relevance} if isinstance(relevance, str) else dict(relevance)
    name = settings.pop("name", "curiosity")
    kind = chosen(RELEVANCE, name, "relevance")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"relevance {name!r}: {error}.") from None


def checked_values(relevance: Relevance, transitions: Transitions) -> th.Tensor:
    """
    Relevance of each row ``(n,)`` in float32.

    :raises ValueError: if it is of another shape or not finite, naming the class
    """
    with th.no_grad():
        values = relevance.values(transitions)
    n, name = len(transitions["rewards"]), type(relevance).__name__
    if not isinstance(values, th.Tensor) or values.shape != (n,):
        shape = tuple(values.shape) if isinstance(values, th.Tensor) else type(values).__name__
        raise ValueError(f"Relevance {name} must return a tensor of shape ({n},), got {shape}.")
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"Relevance {name} returned {bad} of {n} values that are not finite.")
    return values.detach().float()
