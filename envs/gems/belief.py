"""What a recommender can know of a user: the hidden state of a recurrent network that reads slates and clicks."""

from collections.abc import Callable

import numpy as np
import torch as th
from sb3_pgr.envs.gems.logs import Logs
from torch import nn
from torch.nn import functional as F


class BeliefEncoder(nn.Module):
    """
    A GRU over slates and clicks (Deffayet et al. 2023, section 4); what it remembers is the belief, in (-1, 1).

    :param n_items: of the catalogue
    :param slate_size: items of a slate
    :param item_dim: numbers of an item's learned embedding
    :param belief_dim: numbers of the belief
    """

    def __init__(self, n_items: int = 1_000, slate_size: int = 10, item_dim: int = 20, belief_dim: int = 20):
        super().__init__()
        self.sizes = dict(n_items=n_items, slate_size=slate_size, item_dim=item_dim, belief_dim=belief_dim)
        self.slate_size, self.belief_dim = slate_size, belief_dim
        self.item_embedding = nn.Embedding(n_items, item_dim)
        self.of_rank = nn.Parameter(th.zeros(slate_size))
        self.gru = nn.GRU(2 * item_dim + slate_size, belief_dim, batch_first=True)

    def forward(self, slates: th.Tensor, clicks: th.Tensor, belief: th.Tensor | None = None) -> th.Tensor:
        """
        :param slates: item numbers ``(batch, steps, slate_size)``
        :param clicks: ``(batch, steps, slate_size)``
        :param belief: before the first step ``(batch, belief_dim)``, zeros by default
        :return: the belief after each step ``(batch, steps, belief_dim)``
        """
        items = self.item_embedding(slates.long())
        marks = clicks.to(items.dtype)
        liked = (marks[..., None] * items).sum(2)
        passed_by = (((1 - marks) * self.of_rank.sigmoid())[..., None] * items).mean(2)
        rows = th.cat([liked, passed_by, marks], -1)
        beliefs, _ = self.gru(rows, None if belief is None else belief[None])
        return beliefs

    @th.no_grad()
    def step(self, belief: np.ndarray, slates: np.ndarray, clicks: np.ndarray) -> np.ndarray:
        """The belief ``(n, belief_dim)`` after one more slate ``(n, slate_size)`` and its clicks."""
        device = self.item_embedding.weight.device
        arrays = (slates[:, None], clicks[:, None], np.asarray(belief, np.float32))
        return self(*(th.as_tensor(array, device=device) for array in arrays))[:, 0].cpu().numpy()


class _Predictions(nn.Module):
    """What a belief should tell: clicks on the slate to come, and the state of the topics."""

    def __init__(self, encoder: BeliefEncoder, n_topics: int, n_preferences: int):
        super().__init__()
        self.embedding = encoder.item_embedding
        self.wanted = nn.Linear(encoder.belief_dim, self.embedding.embedding_dim)
        self.of_item = nn.Embedding(self.embedding.num_embeddings, 1)
        self.of_rank = nn.Parameter(th.zeros(encoder.slate_size))
        self.bored, self.preferences = nn.Linear(encoder.belief_dim, n_topics), nn.Linear(encoder.belief_dim, n_preferences)

    def forward(self, beliefs: th.Tensor, slates: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        :param beliefs: ``(batch, steps, belief_dim)``
        :param slates: that are shown next ``(batch, steps, slate_size)``
        :return: logits of clicks ``(batch, steps, slate_size)`` and of boredom, and preferences
        """
        matches = (self.embedding(slates) * self.wanted(beliefs)[:, :, None]).sum(-1)
        clicks = matches + self.of_item(slates).squeeze(-1) + self.of_rank
        return clicks, self.bored(beliefs), self.preferences(beliefs)


def train_belief(
    logs: Logs,
    n_items: int,
    belief_dim: int = 20,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 2e-2,
    validation_share: float = 0.05,
    seed: int = 0,
    device: str = "cpu",
    on_step: Callable[[int, int, float], None] | None = None,
) -> tuple[BeliefEncoder, dict[str, float]]:
    """
    Train to foretell, from what was shown and clicked, the next clicks, which topics bore, and what the user likes; the last
    users are kept for validation.

    :param logs: of the simulator
    :param batch_size: users whose whole episodes make a batch
    :param on_step: called with the step, the number of steps and the loss
    :return: the encoder, and what it foretells of the validation users: the shares of variance that it explains
    """
    th.manual_seed(seed)
    n_users, _, slate_size = logs.slates.shape
    held = max(int(n_users * validation_share), 1)
    columns = [th.as_tensor(array, device=device) for array in (logs.slates, logs.clicks, logs.bored, logs.preferences)]
    encoder = BeliefEncoder(n_items, slate_size, belief_dim=belief_dim).to(device)
    heads = _Predictions(encoder, logs.bored.shape[2], logs.preferences.shape[2]).to(device)
    steps = epochs * max((n_users - held) // batch_size, 1)
    parameters = dict.fromkeys([*encoder.parameters(), *heads.parameters()])  # both have the items' embeddings
    optimizer = th.optim.Adam(list(parameters), learning_rate)
    schedule = th.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    spread = columns[3][:held].float().std((0, 1)).clamp_min(1e-3)
    for step in range(steps):
        index = th.randint(n_users - held, (batch_size,), device=device)
        loss = _loss(encoder, heads, [column[index] for column in columns], spread)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if on_step is not None and (step % 20 == 0 or step == steps - 1):
            on_step(step + 1, steps, float(loss.detach()))
    encoder.eval()
    return encoder, _explained(encoder, heads, [column[-held:] for column in columns])


def _predicted(
    encoder: BeliefEncoder, heads: _Predictions, slates: th.Tensor, clicks: th.Tensor
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Logits of the clicks on the next slate and of boredom, and preferences; after all steps but the last."""
    beliefs = encoder(slates, clicks)[:, :-1]
    return heads(beliefs, slates[:, 1:].long())


def _loss(encoder: BeliefEncoder, heads: _Predictions, columns: list[th.Tensor], spread: th.Tensor) -> th.Tensor:
    slates, clicks, bored, preferences = columns
    click, bores, likes = _predicted(encoder, heads, slates, clicks)
    return (
        F.binary_cross_entropy_with_logits(click, clicks[:, 1:].float())
        + F.binary_cross_entropy_with_logits(bores, bored[:, :-1].float())
        + 0.1 * F.mse_loss(likes / spread, preferences[:, :-1].float() / spread)
    )


@th.no_grad()
def _explained(encoder: BeliefEncoder, heads: _Predictions, columns: list[th.Tensor]) -> dict[str, float]:
    slates, clicks, bored, preferences = columns
    click, bores, likes = _predicted(encoder, heads, slates, clicks)
    pairs = {
        "clicks": (click.sigmoid(), clicks[:, 1:].float()),
        "bored": (bores.sigmoid(), bored[:, :-1].float()),
        "preferences": (likes, preferences[:, :-1].float()),
    }
    return {
        name: float(1 - ((guess - truth) ** 2).mean() / (truth - truth.mean((0, 1))).square().mean())
        for name, (guess, truth) in pairs.items()
    }
