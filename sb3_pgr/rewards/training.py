"""Training a reward classifier, and what it is worth on recordings that it has not seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F

from sb3_pgr.common.state import own_randomness
from sb3_pgr.common.vision import shifted
from sb3_pgr.rewards.classifier import ClassifierError, RewardClassifier

Images = dict[str, np.ndarray]
_SHIFT = 4  # pixels
_CHUNK = 256  # images at a time when judging
_PIECES = 5  # of a recording that is the only one


@dataclass(frozen=True)
class Judgement:
    """
    Of held-out frames.

    :param labels: ``(n,)`` bool
    :param probabilities: ``(n,)``
    :param threshold: from which on it is success
    """

    labels: np.ndarray
    probabilities: np.ndarray
    threshold: float

    @property
    def confusion(self) -> np.ndarray:
        """Counts ``(2, 2)``: rows are failure and success, columns what the classifier says."""
        said = self.probabilities >= self.threshold
        return np.array([[int(((self.labels == label) & (said == verdict)).sum()) for verdict in (0, 1)] for label in (0, 1)])

    @property
    def accuracy(self) -> float:
        """Mean over the two classes, however many frames each has."""
        counts = self.confusion
        return float(np.mean([counts[0, 0] / counts[0].sum(), counts[1, 1] / counts[1].sum()]))

    @property
    def false_positive_rate(self) -> float:
        """Share of failures that are taken for success."""
        counts = self.confusion
        return float(counts[0, 1] / counts[0].sum())

    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positive rates over all thresholds, from (0, 0) to (1, 1)."""
        order = np.argsort(-self.probabilities, kind="stable")
        labels, last = self.labels[order], np.append(np.diff(self.probabilities[order]) != 0, True)
        true, false = np.cumsum(labels)[last] / self.labels.sum(), np.cumsum(~labels)[last] / (~self.labels).sum()
        return np.concatenate([[0], false]), np.concatenate([[0], true])


def train_classifier(
    success: Mapping[str, Images],
    failure: Mapping[str, Images],
    steps: int = 500,
    batch_size: int = 128,
    learning_rate: float = 3e-4,
    validation_share: float = 0.2,
    threshold: float | None = None,
    image_encoder: str = "small",
    seed: int = 0,
    device: th.device | str = "cpu",
    on_step: Callable[[int, float], Any] | None = None,
) -> tuple[RewardClassifier, Judgement]:
    """
    Binary cross-entropy on batches of which one half are successes, with images moved by up to 4 pixels.

    Whole recordings are held out, since neighbouring frames look alike; success and failure of one name are one recording. A
    single recording, as HIL-SERL makes, is cut into five in the order of its frames.

    :param success: recordings by name, each images by camera ``(n, height, width, channels)`` uint8
    :param failure: likewise
    :param steps: gradient steps
    :param batch_size: frames of a step
    :param validation_share: of all recordings, at least one of each kind
    :param threshold: from which on it is success; by default the lowest one, of at least 0.5, at which no more than 1 % of the
        training failures are taken for success, and of at most 0.99
    :param on_step: called with the step and its loss
    :return: the classifier and its judgement of the held-out recordings
    :raises ClassifierError: if there are too few recordings to hold some of each kind out, or images are of several sizes
    """
    shapes = [{key: part.shape[1:] for key, part in images.items()} for images in (*success.values(), *failure.values())]
    different = next((shape for shape in shapes if shape != shapes[0]), None)
    if different is not None:
        raise ClassifierError(f"Recordings have images of several sizes: {shapes[0]} and {different}.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ClassifierError(f"threshold={threshold} must be a probability.")
    success, failure = _several(success, "success"), _several(failure, "failure")
    random = np.random.default_rng(seed)
    kept, held = _split(failure, success, validation_share, random)
    with own_randomness(seed, th.device(device)):
        classifier = _fitted(kept, steps, batch_size, learning_rate, image_encoder, random, device, on_step)
    if threshold is None:
        of_failures = probabilities(classifier, kept[0])
        highest = np.sort(of_failures)[len(of_failures) - 1 - len(of_failures) // 100]  # that is not let through
        threshold = float(np.clip(np.nextafter(highest, np.float32(2)), 0.5, 0.99))
    classifier.threshold = threshold
    judged = [probabilities(classifier, part) for part in held]
    answers = np.concatenate([np.zeros(len(judged[0]), bool), np.ones(len(judged[1]), bool)])
    return classifier, Judgement(answers, np.concatenate(judged), threshold)


def _fitted(
    kept: Sequence[Images],
    steps: int,
    batch_size: int,
    learning_rate: float,
    image_encoder: str,
    random: np.random.Generator,
    device: th.device | str,
    on_step: Callable[[int, float], Any] | None,
) -> RewardClassifier:
    """:param kept: images of failure and of success"""
    classifier = RewardClassifier({key: value.shape[1:] for key, value in kept[0].items()}, image_encoder).to(device)
    classifier.train()
    optimizer = th.optim.Adam(classifier.parameters(), learning_rate)
    half = max(batch_size // 2, 1)
    labels = th.cat([th.zeros(half), th.ones(half)]).to(device)
    for step in range(1, steps + 1):
        rows = [random.integers(len(next(iter(part.values()))), size=half) for part in kept]
        offsets = th.as_tensor(random.integers(-_SHIFT, _SHIFT + 1, (2 * half, 2)), device=device)
        images = {}
        for key in classifier.image_keys:
            both = np.concatenate([part[key][index] for part, index in zip(kept, rows, strict=True)])
            images[key] = shifted(th.as_tensor(both, device=device).permute(0, 3, 1, 2), offsets)
        loss = F.binary_cross_entropy_with_logits(classifier(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if on_step is not None:
            on_step(step, loss.item())
    return classifier.eval()


def probabilities(classifier: RewardClassifier, images: Images) -> np.ndarray:
    """Of success for each frame ``(n,)``, a chunk at a time."""
    n = len(next(iter(images.values())))
    chunks = [slice(i, i + _CHUNK) for i in range(0, n, _CHUNK)]
    return np.concatenate([classifier.probability({key: value[chunk] for key, value in images.items()}) for chunk in chunks])


def _several(recordings: Mapping[str, Images], kind: str) -> Mapping[str, Images]:
    """
    :raises ClassifierError: if there is nothing to hold out beside what is learned from
    """
    if len(recordings) != 1:
        parts = dict(recordings)
    else:
        ((name, images),) = recordings.items()
        pieces = {key: np.array_split(value, _PIECES) for key, value in images.items()}
        cut = [{key: value[i] for key, value in pieces.items()} for i in range(_PIECES)]
        parts = {f"{name}, part {i}": piece for i, piece in enumerate(cut) if len(next(iter(piece.values())))}
    if len(parts) < 2:
        raise ClassifierError(f"There are too few frames of {kind}: some to learn from, and some to judge by.")
    return parts


def _split(
    failure: Mapping[str, Images], success: Mapping[str, Images], share: float, random: np.random.Generator
) -> tuple[list[Images], list[Images]]:
    """Failure and success to learn from, and failure and success to judge by."""
    names = sorted(failure.keys() | success.keys())
    order = [names[i] for i in random.permutation(len(names))]
    held = set(order[: max(round(share * len(names)), 1)])
    for recordings in (failure, success):
        if not held & recordings.keys():
            held.add(next(name for name in order if name in recordings))
    for what, recordings in (("failure", failure), ("success", success)):
        if not recordings.keys() - held:
            raise ClassifierError(f"There are too few recordings of {what}: all of them would be held out to judge by.")
    parts = [
        [_joined([kind[name] for name in order if name in kind and (name in held) == out]) for kind in (failure, success)]
        for out in (False, True)
    ]
    return parts[0], parts[1]


def _joined(parts: Sequence[Images]) -> Images:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
