"""``upsample``: a larger dataset of synthetic transitions from a dataset of real ones (SynthER, Lu et al. 2023)."""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_pgr.buffers.fields import scaled_actions
from sb3_pgr.generative.callback import progress_bar
from sb3_pgr.generative.config import PRESETS
from sb3_pgr.generative.diagnostics import FOLDER, write_report
from sb3_pgr.generative.flat import FlatObservations, action_sizes
from sb3_pgr.generative.imagination import Imagination
from sb3_pgr.generative.relevance import RELEVANCE
from sb3_pgr.offline.dataset import ENVIRONMENT, EPISODE_RETURN, PLAYED_RETURNS, REFERENCES, DatasetError, OfflineDataset
from sb3_pgr.offline.readers import load_dataset, save_npz
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.run_folder import require_npz_target

DYNAMICS_EPOCHS = 10


def main() -> None:
    """Fit a generator on a file of transitions and write a file of D4RL's keys with as many rows as asked for."""
    args = _parser().parse_args()
    if args.num_samples < 1:
        raise UsageError(f"--num-samples {args.num_samples} must be at least 1.")
    kind = "synthetic" if args.relevance == "uniform" else args.relevance
    output = args.output or args.dataset.with_name(f"{args.dataset.stem}-{kind}")
    output = output if output.suffix == ".npz" else output.with_name(f"{output.name}.npz")
    if args.device.startswith("cuda") and not th.cuda.is_available():
        raise UsageError(f"--device {args.device}: torch sees no such device here.")
    if output.resolve() == args.dataset.resolve():
        raise UsageError(f"--output {output} is the dataset itself; name another file.")
    require_npz_target(output)
    try:
        dataset = load_dataset(args.dataset)
    except DatasetError as error:
        raise UsageError(str(error)) from None
    synthetic = upsample(dataset, args, output.with_suffix("") / FOLDER)
    save_npz(synthetic, output)
    print(f"{len(synthetic):,} synthetic transitions: {output}")


def _parser() -> argparse.ArgumentParser:
    models = [name for name, kind in RELEVANCE.items() if not kind.needs_model]
    parser = argparse.ArgumentParser(prog="sb3-pgr upsample", description=__doc__)
    parser.add_argument("dataset", type=Path, help="npz or HDF5 file under D4RL's names, or a Minari dataset")
    parser.add_argument("--num-samples", type=int, required=True, help="synthetic transitions to draw")
    parser.add_argument("--relevance", choices=models, default="uniform", help="what to draw more of (default: all alike)")
    parser.add_argument("--top-frac", type=float, default=0.25, help="share of the most relevant rows to ask for")
    parser.add_argument("--generator", choices=list(PRESETS), default="lean", help="preset of the generator")
    parser.add_argument("--train-steps", type=int, default=20_000, help="steps of the generator's fit")
    parser.add_argument("--relevance-steps", type=int, default=2_000, help="steps of training a relevance network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if th.cuda.is_available() else "cpu")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="the npz file (default: <dataset>-synthetic.npz beside it, or <dataset>-<relevance>.npz); a folder of its name "
        "gets diagnostics. Columns beyond D4RL's are left out",
    )
    return parser


def upsample(dataset: OfflineDataset, args: argparse.Namespace, diagnostics: Path) -> OfflineDataset:
    """Synthetic transitions in the form of the real ones: single ones, which take the returns of the real episodes along."""
    try:
        flat, (action_dim, n_actions) = FlatObservations(dataset.observation_space), action_sizes(dataset.action_space)
        device = th.device(args.device)
        imagination = Imagination(
            flat.dim,
            action_dim,
            n_actions,
            args.relevance,
            _settings(args, len(dataset)),
            args.top_frac,
            device=device,
            seed=args.seed,
        )
    except ValueError as error:
        raise UsageError(f"{dataset.source}: {error}") from None

    def tensor(values: Any) -> Any:
        if isinstance(values, dict):
            return {key: tensor(part) for key, part in values.items()}
        return th.as_tensor(values, device=device)

    ends = np.zeros(len(dataset), np.float32)
    ends[dataset.episode_ends] = 1
    space = dataset.action_space
    actions = scaled_actions(dataset.actions, space)
    real = {
        "observations": flat.flatten(tensor(dataset.observations)),
        "actions": tensor(actions.reshape(len(dataset), -1)),
        "rewards": tensor(dataset.rewards[:, None]),
        "next_observations": flat.flatten(tensor(dataset.next_observations)),
        "dones": tensor(dataset.terminals.astype(np.float32)[:, None]),
        "episode_ends": tensor(ends[:, None]),
    }
    relevance = imagination.relevance
    for _ in range(args.relevance_steps if relevance.update_every else 0):
        rows = th.randint(len(dataset), (relevance.batch_size,), generator=imagination.random, device=device)
        relevance.update({name: part[rows] for name, part in real.items()})
    drawn = _draw(imagination, real, args, diagnostics)

    def array(values: Any, like: Any) -> Any:
        if isinstance(values, dict):
            return {key: array(part, like[key]) for key, part in values.items()}
        return values.cpu().numpy().astype(like.dtype).reshape(len(values), *like.shape[1:])

    actions = array(drawn["actions"], dataset.actions)
    if isinstance(space, spaces.Box):
        actions = (space.low + (actions + 1) / 2 * (space.high - space.low)).astype(np.float32)
    return replace(
        dataset,
        observations=array(flat.unflatten(drawn["observations"]), dataset.observations),
        actions=actions,
        rewards=array(drawn["rewards"], dataset.rewards),
        next_observations=array(flat.unflatten(drawn["next_observations"]), dataset.next_observations),
        terminals=array(drawn["dones"], dataset.terminals),
        timeouts=~array(drawn["dones"], dataset.terminals),  # single transitions, each an episode of its own
        source=f"synthetic, from {dataset.source}",
        corrections=(),
        metadata={
            **{
                name: dataset.metadata[name]
                for name in (*REFERENCES, *ENVIRONMENT, "models", "parts")
                if name in dataset.metadata
            },
            "synthetic_from": dataset.fingerprint,
            "relevance": args.relevance,
            "seed": args.seed,
            PLAYED_RETURNS: dataset.played_returns.tolist(),
        },
        extras={EPISODE_RETURN: np.full(args.num_samples, np.nan)},
    )


def _settings(args: argparse.Namespace, rows: int) -> dict[str, Any]:
    """Of the generator; its dynamics head, which decides rewards and next observations, sees every row ten times or more."""
    preset = PRESETS[args.generator]
    steps = max(preset.dynamics_steps, math.ceil(DYNAMICS_EPOCHS * rows / preset.batch_size))
    return {"preset": args.generator, "train_steps": args.train_steps, "terminals": True, "dynamics_steps": steps}


def _draw(
    imagination: Imagination, real: dict[str, th.Tensor], args: argparse.Namespace, diagnostics: Path
) -> dict[str, th.Tensor]:
    """Exactly as many as asked for: rows outside the data's box are made up for by drawing again."""
    bar = progress_bar() if sys.stderr.isatty() else None
    synthetic, report = imagination.imagine(real, args.num_samples, len(real["rewards"]), bar)
    write_report(report, diagnostics)
    print(f"Diagnostics: {diagnostics}")
    if synthetic is None:
        raise UsageError(f"No dataset is written: {report.problem}")
    parts = [synthetic]
    while (missing := args.num_samples - sum(len(part["rewards"]) for part in parts)) > 0:
        parts.append({name: rows[:missing] for name, rows in imagination.draw(real, missing + missing // 4 + 1).items()})
    return {name: th.cat([part[name] for part in parts]) for name in synthetic}
