"""``upsample``: a larger dataset of synthetic transitions from a dataset of real ones (SynthER, Lu et al. 2023)."""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_pgr.generative.callback import progress_bar
from sb3_pgr.generative.config import PRESETS
from sb3_pgr.generative.diagnostics import write_report
from sb3_pgr.generative.imagination import Imagination
from sb3_pgr.generative.relevance import RELEVANCE
from sb3_pgr.zoo.errors import UsageError

KEYS = ("observations", "actions", "rewards", "next_observations", "terminals")


def main() -> None:
    """Fit a generator on a file of transitions and write a file of the same keys with as many rows as asked for."""
    args = _parser().parse_args()
    if args.num_samples < 1:
        raise UsageError(f"--num-samples {args.num_samples} must be at least 1.")
    output = args.output or args.dataset.with_name(f"{args.dataset.stem}-synthetic")
    output = output if output.suffix == ".npz" else output.with_name(f"{output.name}.npz")
    if args.device.startswith("cuda") and not th.cuda.is_available():
        raise UsageError(f"--device {args.device}: torch sees no such device here.")
    if output.resolve() == args.dataset.resolve():
        raise UsageError(f"--output {output} is the dataset itself; name another file.")
    data = read_transitions(args.dataset)
    written = upsample(data, args)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".writing-{output.name}")
    np.savez_compressed(temporary, **written)  # type: ignore[arg-type]
    os.replace(temporary, output)
    print(f"{len(written['rewards']):,} synthetic transitions: {output}")


def _parser() -> argparse.ArgumentParser:
    models = [name for name, kind in RELEVANCE.items() if not kind.needs_model]
    parser = argparse.ArgumentParser(prog="sb3-pgr upsample", description=__doc__)
    parser.add_argument("dataset", type=Path, help=f"npz file with {', '.join(KEYS)}[, timeouts]")
    parser.add_argument("--num-samples", type=int, required=True, help="synthetic transitions to draw")
    parser.add_argument("--relevance", choices=models, default="uniform", help="what to draw more of (default: all alike)")
    parser.add_argument("--top-frac", type=float, default=0.25, help="share of the most relevant rows to ask for")
    parser.add_argument("--generator", choices=list(PRESETS), default="lean", help="preset of the generator")
    parser.add_argument("--train-steps", type=int, default=20_000, help="steps of the generator's fit")
    parser.add_argument("--relevance-steps", type=int, default=2_000, help="steps of training a relevance network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if th.cuda.is_available() else "cpu")
    parser.add_argument("-o", "--output", type=Path, help="the npz file (default: <dataset>-synthetic.npz beside it)")
    return parser


def read_transitions(path: Path) -> dict[str, np.ndarray]:
    """
    Arrays of a file, checked.

    :raises UsageError: if the file cannot be read, or an array is missing, of another length or not finite
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}.") from None
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} cannot be read as an npz file of arrays: {error}") from None
    except Exception as error:  # zipfile raises classes of its own on damaged archives
        raise UsageError(f"{path} is damaged: {error}") from None
    missing = [name for name in KEYS if name not in data]
    if missing:
        raise UsageError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(data)) or 'nothing'}.")
    data = {name: data[name] for name in (*KEYS, "timeouts") if name in data}
    lengths = {name: len(values) if values.ndim else 0 for name, values in data.items()}
    if len(set(lengths.values())) > 1 or lengths["rewards"] < 2:
        raise UsageError(f"{path}: arrays must have one length of at least 2, got {lengths}.")
    for name, values in data.items():
        if not np.issubdtype(values.dtype, np.number) and values.dtype != bool:
            raise UsageError(f"{path}: {name} must be numbers, not {values.dtype}.")
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise UsageError(f"{path}: {name} holds {bad} numbers that are not finite.")
    if data["observations"].shape != data["next_observations"].shape:
        shapes = data["observations"].shape, data["next_observations"].shape
        raise UsageError(f"{path}: observations and next_observations differ in shape, {shapes[0]} and {shapes[1]}.")
    return data


def upsample(data: dict[str, np.ndarray], args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Synthetic arrays of the same keys, types and shapes but the first."""
    device = th.device(args.device)

    def column(name: str) -> th.Tensor:
        return th.as_tensor(data[name].reshape(len(data[name]), -1).astype(np.float32), device=device)

    discrete = np.issubdtype(data["actions"].dtype, np.integer)
    actions = column("actions")
    if discrete and (actions.shape[1] != 1 or actions.min() < 0):
        raise UsageError(
            f"{args.dataset}: integer actions must be one index of at least 0 a row, not {data['actions'].shape}."
        )
    # The generator wants actions in [-1, 1]; their own bounds are not in the file, so take what they reach.
    low, high = actions.amin(0), actions.amax(0)
    half = ((high - low) / 2).clamp(min=1e-6)
    real = {
        "observations": column("observations"),
        "actions": actions if discrete else (actions - low) / half - 1,
        "rewards": column("rewards"),
        "next_observations": column("next_observations"),
        "dones": column("terminals"),
    }
    timeouts = column("timeouts") if "timeouts" in data else th.zeros_like(real["dones"])
    real["episode_ends"] = ((real["dones"] + timeouts) > 0).float()
    try:
        imagination = Imagination(
            real["observations"].shape[1],
            actions.shape[1],
            int(high.max()) + 1 if discrete else 0,
            args.relevance,
            {"preset": args.generator, "train_steps": args.train_steps, "terminals": True},
            args.top_frac,
            device=device,
            seed=args.seed,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    relevance = imagination.relevance
    for _ in range(args.relevance_steps if relevance.update_every else 0):
        rows = th.randint(len(actions), (relevance.batch_size,), generator=imagination.random, device=device)
        relevance.update({name: part[rows] for name, part in real.items()})
    synthetic = _draw(imagination, real, args)
    if not discrete:
        synthetic["actions"] = (synthetic["actions"] + 1) * half + low
    written = {"terminals": synthetic.pop("dones"), **synthetic}
    arrays: dict[str, Any] = {name: written[name].cpu().numpy() for name in KEYS}
    if "timeouts" in data:
        arrays["timeouts"] = np.zeros(args.num_samples)
    return {name: values.reshape(-1, *data[name].shape[1:]).astype(data[name].dtype) for name, values in arrays.items()}


def _draw(imagination: Imagination, real: dict[str, th.Tensor], args: argparse.Namespace) -> dict[str, th.Tensor]:
    """Exactly as many as asked for: rows outside the data's box are made up for by drawing again."""
    synthetic, report = imagination.imagine(real, args.num_samples, len(real["rewards"]), progress_bar())
    folder = (args.output or args.dataset).parent / "diagnostics"
    write_report(report, folder)
    print(f"Diagnostics: {folder}")
    if synthetic is None:
        raise UsageError(f"No dataset is written: {report.problem}")
    parts = [synthetic]
    while (missing := args.num_samples - sum(len(part["rewards"]) for part in parts)) > 0:
        parts.append({name: rows[:missing] for name, rows in imagination.draw(real, missing + missing // 4 + 1).items()})
    return {name: th.cat([part[name] for part in parts]) for name in synthetic}
