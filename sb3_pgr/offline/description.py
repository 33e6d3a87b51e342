"""What is in a dataset, in words and as a picture."""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgr.offline.checks import unmarked_ends
from sb3_pgr.offline.dataset import OfflineDataset


def summary(dataset: OfflineDataset) -> dict[str, str]:
    """What a reader wants to know first, as text."""
    result = {
        "source": dataset.source,
        "environment": dataset.env_id or "not known",
        "rows": f"{len(dataset):,}",
        "episodes": _episodes(dataset),
        "ends": f"{int(dataset.terminals.sum()):,} terminations, {int(dataset.timeouts.sum()):,} time limits",
        **_returns(dataset),
        "rewards": f"{dataset.rewards.min():.3g} to {dataset.rewards.max():.3g}",
        "observations": str(dataset.observation_space),
        "actions": str(dataset.action_space),
        "fingerprint": dataset.fingerprint,
    }
    space, actions = dataset.action_space, dataset.actions
    if isinstance(space, spaces.Box):
        reached = (actions.max(0) - actions.min(0)) / (space.high - space.low)
        edge = 0.005 * (space.high - space.low)
        saturated = ((actions < space.low + edge) | (actions > space.high - edge)).mean()
        result["action coverage"] = f"{reached.min():.0%} to {reached.max():.0%} of each range; {saturated:.1%} at its ends"
    else:
        counts = np.bincount(actions, minlength=int(space.n))  # type: ignore[attr-defined]
        result["action coverage"] = ", ".join(f"{action}: {count / len(actions):.0%}" for action, count in enumerate(counts))
    return result


def _episodes(dataset: OfflineDataset) -> str:
    lengths, singles = dataset.episode_lengths[dataset.played], int((~dataset.played).sum())
    if not len(lengths):
        return f"none: {singles:,} single transitions"
    text = f"{len(lengths):,} of {lengths.min()} to {lengths.max()} rows (median {np.median(lengths):.0f})"
    return text + (f", and {singles:,} single transitions" if singles else "")


def _returns(dataset: OfflineDataset) -> dict[str, str]:
    returns = dataset.played_returns
    if not len(returns):
        return {"returns": "not known"}
    quantiles = np.percentile(returns, [0, 25, 50, 75, 100])
    name = "returns" if dataset.played.any() else "source returns"  # of what rows were made from
    return {
        name: "min {:.5g}, quartiles {:.5g} / {:.5g} / {:.5g}, max {:.5g}".format(*quantiles),
        "mean return": f"{returns.mean():.5g}",
    }


def problems(dataset: OfflineDataset) -> list[str]:
    """What an offline learner would stumble over."""
    found = list(dataset.corrections)
    parts = dataset.observations if isinstance(dataset.observations, dict) else {"observations": dataset.observations}
    for name, values in parts.items():
        flat = values.reshape(len(values), -1)
        constant = int((flat.min(0) == flat.max(0)).sum())
        if constant:
            found.append(f"{name}: {constant} of {flat.shape[1]} numbers never change")
    rewards = dataset.rewards
    if rewards.min() == rewards.max():
        found.append(f"all rewards are {rewards[0]:.3g}")
    if not dataset.terminals.any() and not dataset.timeouts.any():
        found.append("no episode ends: all rows are taken as one")
    if unmarked := int(unmarked_ends(dataset).sum()):
        found.append(
            f"{unmarked:,} rows are not followed by their next observation, and are not marked as ends: "
            "returns and best episodes cannot be right"
        )
    duplicates = len(dataset) - len(np.unique(_rows(dataset), axis=0)) if len(dataset) <= 500_000 else 0
    if duplicates:
        found.append(f"{duplicates:,} rows are there more than once")
    return found


def draw(dataset: OfflineDataset, path: Path) -> None:
    """Returns, lengths, rewards and actions as a picture, whose kind the path's ending says."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    axes: Any = figure.subplots(1, 4)
    axes[0].hist(dataset.played_returns, 40, color="#34495e")
    axes[0].set(title="returns of episodes", xlabel="undiscounted return", ylabel="episodes")
    axes[1].hist(dataset.episode_lengths[dataset.played], 40, color="#34495e")
    axes[1].set(title="lengths of episodes", xlabel="rows")
    axes[2].hist(dataset.rewards, 60, color="#34495e", log=True)
    axes[2].set(title="rewards", xlabel="reward", ylabel="rows (log)")
    if isinstance(dataset.action_space, spaces.Box):
        parts = dataset.actions.reshape(len(dataset), -1)
        axes[3].violinplot(parts[:: max(len(parts) // 5_000, 1)], showextrema=False, widths=0.9)
        axes[3].set(title="actions", xlabel="dimension")
    else:
        counts = np.bincount(dataset.actions)
        axes[3].bar(range(len(counts)), counts, color="#34495e")
        axes[3].set(title="actions", xlabel="action")
    figure.suptitle(f"{dataset.source}: {len(dataset):,} rows, {int(dataset.played.sum()):,} episodes", fontsize=10)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
        axis.title.set_fontsize(9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _rows(dataset: OfflineDataset) -> np.ndarray:
    parts = dataset.observations.values() if isinstance(dataset.observations, dict) else [dataset.observations]
    columns = [part.reshape(len(part), -1).astype(np.float32) for part in (*parts, dataset.actions)]
    return np.ascontiguousarray(np.concatenate([*columns, dataset.rewards[:, None]], 1))
