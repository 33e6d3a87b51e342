"""A transition as one vector."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch as th


@dataclass(frozen=True)
class TransitionLayout:
    """
    ``(observation, action, reward, next observation or its change[, terminal])`` side by side.

    Discrete actions are one-hot in ``{-1, 1}`` (the largest entry decides on the way back), terminals are -1 or 1 (and
    made 0 or 1 at 0 on the way back).

    :param obs_dim: numbers of a flat observation
    :param action_dim: numbers of a continuous action; 1 for a discrete one
    :param n_actions: number of discrete actions; 0 for continuous actions
    :param terminals: whether terminals are modelled; without, none is generated
    :param delta: model the change of the observation in place of the next one: a step changes an observation little,
        and what is left after normalisation is the change, not the observation once more
    """

    obs_dim: int
    action_dim: int
    n_actions: int = 0
    terminals: bool = True
    delta: bool = False

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return 2 * self.obs_dim + (self.n_actions or self.action_dim) + 1 + self.terminals

    @property
    def parts(self) -> dict[str, slice]:
        """Where each part lies."""
        widths = {
            "observations": self.obs_dim,
            "actions": self.n_actions or self.action_dim,
            "rewards": 1,
            "next_observations": self.obs_dim,
            "dones": int(self.terminals),
        }
        slices, start = {}, 0
        for name, width in widths.items():
            slices[name] = slice(start, start + width)
            start += width
        return slices

    def join(self, parts: Mapping[str, th.Tensor], absolute: bool = False) -> th.Tensor:
        """
        :param absolute: with ``delta``, the next observation itself all the same
        :param parts: ``observations (n, obs_dim)``, ``actions (n, action_dim)``, ``rewards (n, 1)``,
            ``next_observations``, ``dones (n, 1)``
        :return: ``(n, dim)``
        """
        actions = parts["actions"]
        if self.n_actions:
            actions = 2 * th.nn.functional.one_hot(actions.long().flatten(), self.n_actions) - 1
        obs, next_obs = parts["observations"], parts["next_observations"]
        columns = [obs, actions, parts["rewards"], next_obs - obs if self.delta and not absolute else next_obs]
        if self.terminals:
            columns.append(2 * parts["dones"] - 1)
        return th.cat([column.flatten(1).float() for column in columns], 1)

    def split(self, vectors: th.Tensor) -> dict[str, th.Tensor]:
        """The parts of vectors ``(n, dim)``, as ``join`` takes them."""
        parts = {name: vectors[:, columns] for name, columns in self.parts.items()}
        if self.delta:
            parts["next_observations"] = parts["next_observations"] + parts["observations"]
        if self.n_actions:
            parts["actions"] = parts["actions"].argmax(1, keepdim=True)
        if self.terminals:
            parts["dones"] = (parts["dones"] > 0).float()
        else:
            parts["dones"] = th.zeros_like(parts["rewards"])
        return parts
