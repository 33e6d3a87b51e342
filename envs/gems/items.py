"""The catalogue: items as mixtures of topics."""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Items:
    """
    :param embeddings: ``(n_items, n_topics * topic_size)`` of length 1 or less, topic by topic; kept as float32
    :param topics: main topic of each item ``(n_items,)``
    :raises ValueError: if these are not such
    """

    embeddings: np.ndarray
    topics: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "embeddings", np.asarray(self.embeddings, np.float32))
        if self.embeddings.ndim != 2 or not len(self.embeddings) or not np.isfinite(self.embeddings).all():
            raise ValueError(f"Embeddings must be finite numbers (n_items, size), not of shape {self.embeddings.shape}.")
        length = np.linalg.norm(self.embeddings, axis=1)
        if length.max() > 1 + 1e-3:
            item = int(length.argmax())
            raise ValueError(f"Embeddings must be at most 1 long; that of item {item} is {length[item]:.4g}.")
        whole = np.issubdtype(self.topics.dtype, np.integer)
        if not whole or self.topics.shape != self.embeddings.shape[:1] or self.topics.min() < 0:
            raise ValueError("Topics must be one number from 0 on for each item.")

    @property
    def number_dtype(self) -> type[np.signedinteger]:
        """For numbers of items in logs."""
        return np.int16 if len(self.topics) <= np.iinfo(np.int16).max else np.int32

    @property
    def fingerprint(self) -> str:
        """Models are of one catalogue; this tells which."""
        return hashlib.sha256(np.ascontiguousarray(self.embeddings).tobytes()).hexdigest()[:16]


def draw_items(n_items: int = 1_000, n_topics: int = 10, topic_size: int = 2, peakedness: float = 1.0, seed: int = 0) -> Items:
    """
    Draw a catalogue (Deffayet et al. 2023, section 5.1): topic weights uniform on (0, 1) and scaled to sum 1, times folded
    normal vectors clipped at 1; each number to the power ``peakedness``; scaled to length 1.

    :param peakedness: 1 for the law of the published files, of both kinds; 2 for the paper's text on its focused items
    """
    generator = np.random.default_rng(seed)
    weights = generator.uniform(size=(n_items, n_topics, 1))
    weights /= weights.sum(1, keepdims=True)
    directions = np.abs(np.clip(0.4 * generator.standard_normal((n_items, n_topics, topic_size)), -1, 1))
    blocks = (weights * directions) ** peakedness
    blocks /= np.linalg.norm(blocks, axis=(1, 2), keepdims=True)
    topics = np.linalg.norm(blocks, axis=2).argmax(1)
    return Items(blocks.reshape(n_items, -1).astype(np.float32), topics)
