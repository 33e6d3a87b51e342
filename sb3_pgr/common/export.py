"""A policy as a file that runs without this library: ONNX or TorchScript, checked against ``predict``."""

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

TOLERANCE = 1e-5  # of an action's range
OBSERVATION, ACTION = "observation", "action"
_ONNX, _TORCHSCRIPT = (".onnx",), (".pt", ".ts")
_CHECKED_BATCHES = (1, 7)
_PLAUSIBLE_RANGE = 1e4  # a wider Box, such as CartPole's of ±3.4e38, counts as unbounded

Run = Callable[[dict[str, np.ndarray]], np.ndarray]


class ExportError(RuntimeError):
    """What was written does not act as the policy does."""


@dataclass(frozen=True)
class Export:
    """
    What was written.

    :param path: the file
    :param inputs: shape of each input without the batch dimension, in order
    :param output: shape of the output without the batch dimension
    :param difference: largest difference from ``predict``, as a share of an action's range; ``None`` if not checked
    """

    path: Path
    inputs: dict[str, tuple[int, ...]]
    output: tuple[int, ...]
    difference: float | None


def export_policy(
    model: BaseAlgorithm, path: str | Path, check: bool = True, vec_normalize: VecNormalize | None = None
) -> Export:
    """
    Write the deterministic policy of a model: raw observations in, actions in units of the environment out.

    Inputs are float32 ``(batch, *shape)``, the batch being of any size. A ``Box`` is one input, ``observation``. Each key of
    a ``Dict`` is an input of that name in ONNX; a TorchScript module takes one tuple of tensors, in the order of
    ``observation_space.keys()``. The output is ``action``, float32 ``(batch, *shape)`` or the int64 of discrete actions.

    :param model: an algorithm of this library or of Stable-Baselines3; neither it nor any global generator is changed
    :param path: a file ending in ``.onnx``, or in ``.pt`` or ``.ts`` for TorchScript
    :param check: read the file again and compare it with ``model.predict(..., deterministic=True)`` before it gets its name
    :param vec_normalize: statistics of observations to make part of the policy; those of the model's environment by default
    :return: what was written
    :raises ValueError: if the file has another ending, observations are images or neither a ``Box`` nor a ``Dict`` of such,
        or the policy is recurrent
    :raises ImportError: if a package for ONNX is missing
    :raises ExportError: if the file differs from ``predict`` by more than 1e-5 of an action's range; nothing is left then
    """
    path = Path(path)
    if path.suffix not in _ONNX + _TORCHSCRIPT:
        raise ValueError(f"{path.name}: the file has to end in .onnx (ONNX) or in .pt or .ts (TorchScript).")
    vec_normalize = vec_normalize or model.get_vec_normalize_env()
    inputs, is_dict = _inputs(model, vec_normalize), isinstance(model.observation_space, spaces.Dict)
    if path.suffix in _ONNX:
        for package in ("onnx", "onnxruntime") if check else ("onnx",):
            _import(package)
    network = _trace(_Deployed(_copy(model.policy), vec_normalize), _tensors(_draw(inputs, 2), is_dict))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    try:
        if path.suffix in _ONNX:
            _write_onnx(network, temporary, inputs, is_dict)
        else:
            _write_torchscript(network, temporary)
        difference = None
        if check:
            run = _load_onnx(temporary) if path.suffix in _ONNX else _load_torchscript(temporary, is_dict)
            difference = _largest_difference(model, run, inputs, vec_normalize)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Export(path, {name: box.shape for name, box in inputs.items()}, model.action_space.shape or (), difference)


class _Deployed(nn.Module):
    """A policy with what ``predict`` and ``VecNormalize`` do around it."""

    def __init__(self, policy: BasePolicy, vec_normalize: VecNormalize | None):
        super().__init__()
        self.policy = policy
        space = policy.observation_space
        self.keys = list(space) if isinstance(space, spaces.Dict) else None
        self.statistics = _statistics(vec_normalize)
        self.vec_normalize = vec_normalize

    def forward(self, observations: Any) -> th.Tensor:
        if self.keys is None:
            observations = self.normalize(observations)
        else:
            observations = {key: self.normalize(part, key) for key, part in zip(self.keys, observations, strict=True)}
        space = self.policy.action_space
        actions = self.policy._predict(observations, deterministic=True).reshape(-1, *(space.shape or ()))
        if not isinstance(space, spaces.Box):
            return actions
        low, high = (th.as_tensor(bound, dtype=actions.dtype) for bound in (space.low, space.high))
        return low + 0.5 * (actions + 1) * (high - low) if self.policy.squash_output else actions.clamp(low, high)

    def normalize(self, observations: th.Tensor, key: str = OBSERVATION) -> th.Tensor:
        if self.vec_normalize is None or key not in self.statistics:
            return observations
        mean, var = self.statistics[key]
        scale, clip = np.sqrt(var + self.vec_normalize.epsilon), self.vec_normalize.clip_obs
        # in float64 as VecNormalize does it: a mean far from zero would cost digits
        return ((observations.double() - th.as_tensor(mean)) / th.as_tensor(scale)).clamp(-clip, clip).float()


def _statistics(vec_normalize: VecNormalize | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of each input that is normalised."""
    if vec_normalize is None or not vec_normalize.norm_obs:
        return {}
    all_stats = vec_normalize.obs_rms
    named = all_stats if isinstance(all_stats, dict) else {OBSERVATION: all_stats}
    return {key: (named[key].mean, named[key].var) for key in vec_normalize.norm_obs_keys or named}


def _inputs(model: BaseAlgorithm, vec_normalize: VecNormalize | None) -> dict[str, spaces.Box]:
    """
    :raises ValueError: if the policy cannot be exported
    """
    if hasattr(model.policy, "lstm_actor"):
        raise ValueError("Recurrent policies are not exported: they keep a state from step to step.")
    space = model.observation_space
    statistics, inputs = _statistics(vec_normalize), {}
    for name, part in space.items() if isinstance(space, spaces.Dict) else [(OBSERVATION, space)]:
        if not isinstance(part, spaces.Box):
            raise ValueError(f"Only observations that are a Box, or a Dict of Boxes, can be exported; '{name}' is {part}.")
        if is_image_space(part):
            raise ValueError(f"Policies of images are not exported; '{name}' is {part}.")
        if name == ACTION:
            raise ValueError(f"The output is called '{ACTION}', so no observation can be; rename that key.")
        if name in statistics and statistics[name][0].shape != part.shape:
            raise ValueError(f"VecNormalize has statistics of shape {statistics[name][0].shape}; '{name}' is {part}.")
        inputs[name] = part
    return inputs


def _copy(policy: BasePolicy) -> BasePolicy:
    """A policy of its own, on the CPU; deepcopy would stumble over tensors with a graph that distributions keep."""
    with th.random.fork_rng(devices=[]):
        try:
            copy = type(policy)(**policy._get_constructor_parameters())
        except TypeError as error:  # of policies that do not say how they were made
            raise ValueError(f"{type(policy).__name__} cannot be exported: {error}") from error
    copy.load_state_dict(policy.state_dict())
    return copy.requires_grad_(False)


def _trace(network: _Deployed, example: Any) -> th.jit.ScriptModule:
    with _quiet(), th.no_grad():
        traced = th.jit.trace(network.eval(), (example,), check_trace=False)
        return th.jit.freeze(traced, optimize_numerics=False)  # leaves out critics and targets


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what tracing says of itself: it is deprecated, and warns of every check of arguments. We check the result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write_torchscript(network: th.jit.ScriptModule, path: Path) -> None:
    with _quiet():
        th.jit.save(network, path)


def _write_onnx(network: th.jit.ScriptModule, path: Path, inputs: dict[str, spaces.Box], is_dict: bool) -> None:
    with _quiet(), th.no_grad():
        # torch.export, behind dynamo=True, stops at the argument checks of SB3's distributions, and needs one package more
        th.onnx.export(
            network,
            (_tensors(_draw(inputs, 2), is_dict),),
            str(path),
            dynamo=False,
            input_names=list(inputs),
            output_names=[ACTION],
            dynamic_axes={name: {0: "batch"} for name in (*inputs, ACTION)},
        )


def _load_torchscript(path: Path, is_dict: bool) -> Run:
    with _quiet():
        network = th.jit.load(path, map_location="cpu")

    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        with th.no_grad():
            return network(_tensors(batch, is_dict)).numpy()

    return run


def _load_onnx(path: Path) -> Run:
    runtime = _import("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run([ACTION], batch)[0]


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ImportError(f"ONNX needs the package {package}. Install it with: pip install 'sb3_pgr[export]'") from None


def _largest_difference(
    model: BaseAlgorithm, run: Run, inputs: dict[str, spaces.Box], vec_normalize: VecNormalize | None
) -> float:
    """
    :raises ExportError: if it is above the tolerance
    """
    space = model.action_space
    scale = space.high - space.low if isinstance(space, spaces.Box) else 1
    scale = np.where(np.isfinite(scale), scale, 1)
    largest = 0.0
    for n in _CHECKED_BATCHES:
        batch = _draw(inputs, n)
        given: Any = {name: values.astype(inputs[name].dtype) for name, values in batch.items()}
        given = given if isinstance(model.observation_space, spaces.Dict) else given[OBSERVATION]
        if vec_normalize is not None:
            given = vec_normalize.normalize_obs(given)
        with _training_modes_kept(model.policy):
            expected, _ = model.predict(given, deterministic=True)
        try:
            actions = run(batch)
        except Exception as error:  # runtimes raise their own
            raise ExportError(f"The exported policy cannot be run on a batch of {n}: {error}") from error
        if actions.shape != expected.shape:
            raise ExportError(f"The exported policy gives actions {actions.shape}, predict {expected.shape}.")
        difference = float((np.abs(actions.astype(np.float64) - expected) / scale).max())
        if not difference <= TOLERANCE:
            raise ExportError(
                f"The exported policy differs from predict by {difference:.2g} of the actions' range on a batch of {n}; "
                f"at most {TOLERANCE:g} is allowed. Nothing was written."
            )
        largest = max(largest, difference)
    return largest


@contextmanager
def _training_modes_kept(policy: BasePolicy) -> Iterator[None]:
    modes = {module: module.training for module in policy.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _draw(inputs: dict[str, spaces.Box], n: int) -> dict[str, np.ndarray]:
    """Observations ``(n, *shape)``, always the same: uniform where a Box has bounds, else standard normal within it."""
    random = np.random.default_rng(n)
    drawn = {}
    for name, box in inputs.items():
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        bounded = high - low < _PLAUSIBLE_RANGE
        uniform = random.uniform(np.where(bounded, low, 0), np.where(bounded, high, 1), (n, *box.shape))
        values = np.where(bounded, uniform, random.standard_normal((n, *box.shape)).clip(low, high))
        drawn[name] = values.astype(box.dtype).astype(np.float32)
    return drawn


def _tensors(batch: dict[str, np.ndarray], is_dict: bool) -> Any:
    """What a traced policy takes: one tensor, or of a ``Dict`` a tuple of them."""
    tensors = tuple(th.as_tensor(values) for values in batch.values())
    return tensors if is_dict else tensors[0]
