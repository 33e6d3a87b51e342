"""What an agent's action is: a slate itself, or numbers in [-1, 1] that a model or the items' embeddings turn into one."""

from typing import Protocol

import numpy as np
from gymnasium import spaces
from sb3_pgr.envs.gems.engine import GemsEngine
from sb3_pgr.envs.gems.policies import best_items
from sb3_pgr.envs.gems.slate_vae import SlateVAE


class Actions(Protocol):
    @property
    def space(self) -> spaces.Space:
        """Of one user's action."""
        ...

    def to_slates(self, actions: np.ndarray) -> np.ndarray:
        """Slates ``(n_users, slate_size)`` for the actions of all users."""
        ...


class SlateActions:
    """Item numbers; they may repeat."""

    def __init__(self, engine: GemsEngine):
        self.space = spaces.MultiDiscrete([len(engine.items.topics)] * engine.config.slate_size)

    def to_slates(self, actions: np.ndarray) -> np.ndarray:
        return actions


class LatentActions:
    """
    Points of the space that a model of slates has learned (GeMS).

    :param model: its bounds are what -1 and 1 stand for
    """

    def __init__(self, model: SlateVAE):
        self.model = model
        self.space = spaces.Box(-1, 1, (model.latent_dim,), np.float32)

    def to_slates(self, actions: np.ndarray) -> np.ndarray:
        return self.model.decode(self.model.to_latents(checked(actions, self.space)))


class TopKActions:
    """
    The items whose embeddings have the largest dot products with the action, best first: SAC+TopK, *ideal* in the paper, since
    the embeddings are the simulator's own.

    :param engine: of whose items -1 and 1 stand for the lowest and highest number
    :raises ValueError: if there are fewer items than places
    """

    def __init__(self, engine: GemsEngine):
        if len(engine.items.topics) < engine.config.slate_size:
            raise ValueError(
                f"{len(engine.items.topics)} items do not fill a slate of {engine.config.slate_size} different ones."
            )
        self.embeddings, self.slate_size = engine.items.embeddings, engine.config.slate_size
        self.low, self.high = self.embeddings.min(0), self.embeddings.max(0)
        self.space = spaces.Box(-1, 1, self.low.shape, np.float32)

    def to_slates(self, actions: np.ndarray) -> np.ndarray:
        wanted = self.low + (checked(actions, self.space) + 1) / 2 * (self.high - self.low)
        return best_items(wanted @ self.embeddings.T, self.slate_size)


class KHeadActions:
    """
    For each place an embedding of its own, and the item with the largest dot product.

    :param engine: see ``TopKActions``
    """

    def __init__(self, engine: GemsEngine):
        self.embeddings, self.slate_size = engine.items.embeddings, engine.config.slate_size
        self.low, self.high = self.embeddings.min(0), self.embeddings.max(0)
        self.space = spaces.Box(-1, 1, (self.slate_size * len(self.low),), np.float32)

    def to_slates(self, actions: np.ndarray) -> np.ndarray:
        heads = checked(actions, self.space).reshape(len(actions), self.slate_size, -1)
        wanted = self.low + (heads + 1) / 2 * (self.high - self.low)
        return (wanted @ self.embeddings.T).argmax(2)


def checked(actions: np.ndarray, space: spaces.Box) -> np.ndarray:
    """
    Actions clipped to their space.

    :raises ValueError: if the shape is wrong or a number is not finite
    """
    actions = np.asarray(actions, np.float32)
    if actions.shape[1:] != space.shape:
        raise ValueError(f"Actions must have shape {space.shape} for each user, not {actions.shape[1:]}.")
    if not np.isfinite(actions).all():
        user, position = np.argwhere(~np.isfinite(actions))[0]
        raise ValueError(f"Action of user {user}: number {position} is {actions[user, position]}.")
    return np.clip(actions, space.low, space.high)
