"""What a reward classifier is worth, drawn."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_pgr.rewards.classifier import RewardClassifier
from sb3_pgr.rewards.training import Judgement


def draw_judgement(judgement: Judgement, path: Path) -> None:
    """ROC curve, confusion matrix and scores of the held-out frames, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    roc, matrix, scores = figure.subplots(1, 3)
    false, true = judgement.roc()
    area = np.trapezoid(true, false)
    roc.plot(false, true, color="C0")
    roc.plot([0, 1], [0, 1], color="0.8", linestyle=":")
    roc.plot(judgement.false_positive_rate, judgement.confusion[1, 1] / judgement.confusion[1].sum(), "o", color="C3")
    roc.set(title=f"ROC, area {area:.3f}; dot: threshold {judgement.threshold:.2f}", xlabel="false positive rate")
    roc.set(ylabel="true positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    counts = judgement.confusion
    matrix.imshow(counts / counts.sum(1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    for i in range(2):
        for j in range(2):
            share = counts[i, j] / counts[i].sum()
            matrix.text(
                j, i, f"{counts[i, j]}\n{share:.1%}", ha="center", va="center", color="white" if share > 0.5 else "black"
            )
    kinds = ["failure", "success"]
    matrix.set(xticks=[0, 1], yticks=[0, 1], xticklabels=kinds, yticklabels=kinds, xlabel="classifier", ylabel="truth")
    matrix.set_title(f"held-out frames, accuracy {judgement.accuracy:.1%}")
    bins = np.linspace(0, 1, 26)
    for label, colour in ((False, "C1"), (True, "C0")):
        values = judgement.probabilities[judgement.labels == label]
        scores.hist(values, bins, color=colour, alpha=0.6, density=True, label=kinds[int(label)])
    scores.axvline(judgement.threshold, color="C3", linestyle="--", label="threshold")
    scores.set(title="probability of success", xlabel="probability", ylabel="density", yscale="log")
    scores.legend(frameon=False, loc="upper center")
    figure.savefig(path, dpi=110)


def draw_scores(
    scores: np.ndarray, rewards: np.ndarray, images: Mapping[str, Any], classifier: RewardClassifier, path: Path
) -> None:
    """The classifier's probability over one episode, with frames of its first camera below."""
    from matplotlib.figure import Figure

    frames = images[classifier.image_keys[0]]
    shown = np.unique(np.linspace(0, len(frames) - 1, 8).round().astype(int))
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, len(shown), height_ratios=(2, 1))
    axis = figure.add_subplot(grid[0, :])
    steps = np.arange(1, len(scores) + 1)
    axis.plot(steps, scores, color="C0", label="probability of success")
    axis.fill_between(steps, 0, rewards.clip(0, 1), step="mid", color="C2", alpha=0.3, label="true reward")
    axis.axhline(classifier.threshold, color="C3", linestyle="--", label="threshold")
    axis.set(xlabel="step", ylim=(-0.03, 1.03), xlim=(0.5, len(scores) + 0.5))
    axis.legend(frameon=False, loc="upper left")
    for column, i in enumerate(shown):
        cell = figure.add_subplot(grid[1, column])
        cell.imshow(frames[i])
        cell.set_title(f"step {i + 1}", fontsize=8)
        cell.axis("off")
    figure.savefig(path, dpi=110)
