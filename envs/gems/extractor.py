"""Learning to remember along with the agent, instead of a belief that was learned from logs."""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class HistoryExtractor(BaseFeaturesExtractor):
    """
    A GRU over the last slates and clicks, for ``observations="history"``: ``policy_kwargs=dict(
    features_extractor_class=HistoryExtractor)`` with ``"MultiInputPolicy"``.

    :param observation_space: of ``History``
    :param features_dim: numbers of its hidden state
    :param item_dim: numbers of an item's embedding
    """

    def __init__(self, observation_space: spaces.Dict, features_dim: int = 64, item_dim: int = 20):
        super().__init__(observation_space, features_dim)
        slates: spaces.Box = observation_space["slates"]  # type: ignore[assignment]
        self.length = observation_space["seen"].shape[0]  # type: ignore[index]
        self.slate_size = slates.shape[0] // self.length
        self.item_embedding = nn.Embedding(int(slates.high.max()) + 1, item_dim)
        self.gru = nn.GRU(self.slate_size * (item_dim + 1) + 1, features_dim, batch_first=True)

    def forward(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """Features ``(batch, features_dim)``."""
        batch = len(observations["seen"])
        items = self.item_embedding(observations["slates"].long()).view(batch, self.length, self.slate_size, -1)
        clicks = observations["clicks"].view(batch, self.length, self.slate_size, 1).to(items.dtype)
        seen = observations["seen"][..., None].to(items.dtype)
        rows = th.cat([th.cat([items, clicks], -1).flatten(2) * seen, seen], -1)
        return self.gru(rows)[0][:, -1]
