"""``export``: a trained policy as one ONNX or TorchScript file, raw observations in and actions out."""

import argparse
from pathlib import Path

import torch as th
from rl_zoo3.utils import get_saved_hyperparams
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pgr.common.export import ACTION, ExportError, export_policy
from sb3_pgr.common.state import set_vec_normalize
from sb3_pgr.offline.spaces_only import SpacesOnly
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.registry import register
from sb3_pgr.zoo.saved_model import SavedModel, saved_model


def main() -> None:
    """Write the file, checked against the model, and print what goes in and comes out."""
    register()
    parser = argparse.ArgumentParser(prog="sb3-pgr export", description=__doc__)
    parser.add_argument("source", type=Path, metavar="MODEL_OR_RUN", help="a model's zip, or a run folder: its last model")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file: .onnx, or .pt or .ts for TorchScript")
    parser.add_argument("--algo", help="algorithm; by default that of the run")
    args = parser.parse_args()
    saved = saved_model(args.source, args.algo)
    model = saved.load()
    try:
        export = export_policy(model, args.output, vec_normalize=_vec_normalize(saved, model))
    except (ValueError, ImportError, ExportError, OSError) as error:
        raise UsageError(str(error)) from None
    print(f"Model:  {saved.path}")
    for name, shape in export.inputs.items():
        print(f"Input:  {name} {_shape(shape)}")
    print(f"Output: {ACTION} {_shape(export.output)}")
    print(f"Largest difference from predict: {export.difference:.2g} of the actions' range")
    print(f"Policy: {export.path}")


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['batch', *map(str, shape)])})"


def _vec_normalize(saved: SavedModel, model: BaseAlgorithm) -> VecNormalize | None:
    """The statistics of observations that belong to a model, if its run normalised them."""
    config = next(saved.run.glob("*/config.yml"), None)
    hyperparams = get_saved_hyperparams(str(config.parent), test_mode=True)[0] if config else {}
    in_checkpoint = saved.path.with_name("vecnormalize.pt")
    if hyperparams.get("frame_stack") and (hyperparams.get("normalize") or in_checkpoint.is_file()):
        raise UsageError("The run normalised single observations and stacked them afterwards: no function of raw stacks.")
    env = DummyVecEnv([lambda: SpacesOnly(model.observation_space, model.action_space)])
    if in_checkpoint.is_file():
        normalized = VecNormalize(env, training=False, **hyperparams.get("normalize_kwargs", {}))
        set_vec_normalize(normalized, th.load(in_checkpoint, weights_only=True))
        return normalized
    if config is None or not hyperparams.get("normalize"):
        return None
    statistics = config.with_name("vecnormalize.pkl")
    if not statistics.is_file():
        raise UsageError(f"The run normalised observations, but there is no {statistics}; its checkpoints have their own.")
    return VecNormalize.load(str(statistics), env)
