"""GeMS's model of slates: a variational autoencoder of what is shown and clicked (Deffayet et al. 2023, section 4)."""

from collections.abc import Callable

import numpy as np
import torch as th
from torch import nn
from torch.nn import functional as F

DECODE_CHUNK = 640  # places of slates whose logits stay in the processor's cache


class SlateVAE(nn.Module):
    """
    Slates as points of a small continuous space, and back.

    :param n_items: of the catalogue
    :param slate_size: items of a slate
    :param item_dim: numbers of an item's embedding
    :param latent_dim: of the space
    :param hidden: widths of the encoder's layers; the decoder's are the same backwards
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(
        self,
        n_items: int = 1_000,
        slate_size: int = 10,
        item_dim: int = 20,
        latent_dim: int = 32,
        hidden: tuple[int, int] = (512, 256),
    ):
        super().__init__()
        self.sizes = dict(n_items=n_items, slate_size=slate_size, item_dim=item_dim, latent_dim=latent_dim, hidden=hidden)
        self.slate_size, self.latent_dim = slate_size, latent_dim
        self.item_embedding = nn.Embedding(n_items, item_dim)
        wide, narrow = hidden
        self.encoder = nn.Sequential(
            nn.Linear(slate_size * (item_dim + 1), wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU(),
            nn.Linear(narrow, 2 * latent_dim),
        )  # fmt: skip
        self.decoder = nn.Sequential(nn.Linear(latent_dim, narrow), nn.ReLU(), nn.Linear(narrow, wide), nn.ReLU())
        self.slate_head = nn.Linear(wide, slate_size * item_dim)
        self.click_head = nn.Linear(wide, slate_size)
        # The box of latent actions; an agent's actions in [-1, 1] are stretched to it.
        self.register_buffer("low", -th.ones(latent_dim))
        self.register_buffer("high", th.ones(latent_dim))

    def encode(self, slates: th.Tensor, clicks: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param slates: item numbers ``(batch, slate_size)``
        :param clicks: ``(batch, slate_size)``
        :return: means and standard deviations ``(batch, latent_dim)``
        """
        rows = th.cat([self.item_embedding(slates.long()).flatten(1), clicks.to(self.low.dtype)], 1)
        mean, log_variance = self.encoder(rows).chunk(2, 1)
        return mean, th.exp(0.5 * log_variance)

    def logits(self, latents: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param latents: ``(batch, latent_dim)``
        :return: of items ``(batch, slate_size, n_items)`` and of clicks ``(batch, slate_size)``
        """
        hidden = self.decoder(latents)
        wanted = self.slate_head(hidden).view(len(latents), self.slate_size, -1)
        return wanted @ self.item_embedding.weight.T, self.click_head(hidden)

    def loss(
        self, slates: th.Tensor, clicks: th.Tensor, click_weight: float, kl_weight: float
    ) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        """
        Cross entropy of items and of clicks and KL divergence from a standard normal, each a mean over its elements.

        :param slates: item numbers ``(batch, slate_size)``
        :param clicks: ``(batch, slate_size)``
        :return: the loss, and what it is made of
        """
        mean, std = self.encode(slates, clicks)
        items, clicked = self.logits(mean + std * th.randn_like(std))
        exact_mean, exact_std = (value.to(th.promote_types(value.dtype, th.float32)) for value in (mean, std))
        parts = {
            "items": F.cross_entropy(items.flatten(0, 1).float(), slates.long().flatten()),
            "clicks": F.binary_cross_entropy_with_logits(clicked.float(), clicks.float()),
            "kl": 0.5 * (exact_mean**2 + exact_std**2 - 2 * exact_std.log() - 1).mean(),
        }
        return parts["items"] + click_weight * parts["clicks"] + kl_weight * parts["kl"], parts

    @th.no_grad()
    def decode(self, latents: np.ndarray) -> np.ndarray:
        """
        The likeliest item of each place.

        :param latents: ``(n, latent_dim)``
        :return: slates ``(n, slate_size)``
        """
        points = th.as_tensor(np.asarray(latents), dtype=self.low.dtype, device=self.low.device)
        wanted = self.slate_head(self.decoder(points)).view(-1, self.item_embedding.embedding_dim)
        embeddings = self.item_embedding.weight.T
        if points.device.type != "cpu":
            return (wanted @ embeddings).argmax(1).view(-1, self.slate_size).cpu().numpy()
        return _likeliest(wanted.numpy(), embeddings.numpy()).reshape(-1, self.slate_size)

    @th.no_grad()
    def latents(self, slates: np.ndarray, clicks: np.ndarray, chunk: int = 65_536) -> np.ndarray:
        """Means of the encoder ``(n, latent_dim)`` for slates and clicks ``(n, slate_size)``."""
        return np.concatenate(
            [self._encoded(slates[i : i + chunk], clicks[i : i + chunk])[0] for i in range(0, len(slates), chunk)]
        )

    def _encoded(self, slates: np.ndarray, clicks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, std = self.encode(th.as_tensor(slates, device=self.low.device), th.as_tensor(clicks, device=self.low.device))
        return mean.cpu().numpy(), std.cpu().numpy()

    @th.no_grad()
    def set_bounds(self, slates: np.ndarray, clicks: np.ndarray) -> None:
        """
        The box of latent actions is what these slates and clicks ``(n, slate_size)`` reach, a standard deviation around each.
        """
        mean, std = self._encoded(slates, clicks)
        self.low.copy_(th.as_tensor((mean - std).min(0)))
        self.high.copy_(th.as_tensor((mean + std).max(0)))

    def to_latents(self, actions: np.ndarray) -> np.ndarray:
        """Points of the box for actions ``(n, latent_dim)`` in [-1, 1]."""
        low, high = self.low.cpu().numpy(), self.high.cpu().numpy()
        return low + (np.asarray(actions, np.float32) + 1) / 2 * (high - low)

    def to_actions(self, latents: np.ndarray) -> np.ndarray:
        """The inverse of ``to_latents``; what lies outside of the box is beyond [-1, 1]."""
        low, high = self.low.cpu().numpy(), self.high.cpu().numpy()
        return 2 * (np.asarray(latents, np.float32) - low) / (high - low) - 1


def _likeliest(wanted: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Best item of each row; on a processor numpy finds maxima five times faster than torch."""
    best = np.empty(len(wanted), np.int64)
    logits = np.empty((min(DECODE_CHUNK, len(wanted)), embeddings.shape[1]), np.float32)
    for start in range(0, len(wanted), DECODE_CHUNK):
        rows = wanted[start : start + DECODE_CHUNK]
        best[start : start + DECODE_CHUNK] = np.matmul(rows, embeddings, out=logits[: len(rows)]).argmax(1)
    return best


def train_slate_vae(
    slates: np.ndarray,
    clicks: np.ndarray,
    item_embeddings: np.ndarray,
    latent_dim: int = 32,
    epochs: int = 3,
    batch_size: int = 1_024,
    learning_rate: float = 1e-3,
    click_weight: float = 0.2,
    kl_weight: float = 1.0,
    validation_share: float = 0.05,
    seed: int = 0,
    device: str = "cpu",
    compile: bool = True,
    on_step: Callable[[int, int, float], None] | None = None,
) -> tuple[SlateVAE, dict[str, float]]:
    """
    Train on logged slates; the last rows are kept for validation.

    :param slates: item numbers ``(n, slate_size)``
    :param clicks: ``(n, slate_size)``
    :param compile: with ``torch.compile``: two to three times faster
    :param item_embeddings: ``(n_items, item_dim)``; they are standardised and not trained
    :param on_step: called with the step, the number of steps and the loss
    :return: the model, with its bounds, and losses on the validation rows, with the share of items that are decoded as shown
    """
    th.manual_seed(seed)
    held = max(int(len(slates) * validation_share), 1)
    rows, marks = (th.as_tensor(array[:-held], device=device) for array in (slates, clicks))
    n_items, item_dim = item_embeddings.shape
    model = SlateVAE(n_items, slates.shape[1], item_dim, latent_dim)
    known = item_embeddings - item_embeddings.mean(0)
    model.item_embedding.weight.data.copy_(th.as_tensor(known / known.std()))
    model.item_embedding.weight.requires_grad_(False)
    model.to(device)
    steps = epochs * max(len(rows) // batch_size, 1)
    optimizer = th.optim.Adam([p for p in model.parameters() if p.requires_grad], learning_rate)
    schedule = th.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.05)
    loss_of = th.compile(model.loss) if compile else model.loss
    for step in range(steps):
        index = th.randint(len(rows), (batch_size,), device=device)
        with th.autocast(th.device(device).type, th.bfloat16):
            loss, _ = loss_of(rows[index], marks[index], click_weight, kl_weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_step is not None and (step % 50 == 0 or step == steps - 1):
            on_step(step + 1, steps, float(loss.detach()))
    model.eval()
    model.set_bounds(slates[-held:], clicks[-held:])
    return model, _validated(model, slates[-held:], clicks[-held:])


@th.no_grad()
def _validated(model: SlateVAE, slates: np.ndarray, clicks: np.ndarray, chunk: int = 4_096) -> dict[str, float]:
    sums: dict[str, float] = {}
    for start in range(0, len(slates), chunk):
        part = slice(start, start + chunk)
        shown = th.as_tensor(slates[part], device=model.low.device)
        _, losses = model.loss(shown, th.as_tensor(clicks[part], device=model.low.device), 0.0, 0.0)
        losses["decoded_as_shown"] = th.as_tensor(
            (model.decode(model.latents(slates[part], clicks[part])) == slates[part]).mean()
        )
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(shown)
    return {name: value / len(slates) for name, value in sums.items()}
