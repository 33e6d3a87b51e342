"""State of buffers, VecNormalize and random generators, as tensors and plain values that are read without unpickling."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.vec_env import VecEnv, VecNormalize


def rng_state() -> dict[str, Any]:
    """State of the global generators of python, numpy and torch, as JSON."""
    numpy_state = np.random.get_state(legacy=False)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {"key": numpy_state["state"]["key"].tolist(), "pos": numpy_state["state"]["pos"]}},
        "torch": th.get_rng_state().tolist(),
    }
    if th.cuda.is_available():
        state["cuda"] = [generator.tolist() for generator in th.cuda.get_rng_state_all()]
    if th.backends.mps.is_available():
        state["mps"] = th.mps.get_rng_state().tolist()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Set the global generators to what ``rng_state`` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(state["numpy"])
    th.set_rng_state(th.tensor(state["torch"], dtype=th.uint8))
    if "cuda" in state and th.cuda.is_available():
        for device, generator in enumerate(state["cuda"][: th.cuda.device_count()]):
            th.cuda.set_rng_state(th.tensor(generator, dtype=th.uint8), device)
    if "mps" in state and th.backends.mps.is_available():
        th.mps.set_rng_state(th.tensor(state["mps"], dtype=th.uint8))


@contextmanager
def own_randomness(seed: int, device: th.device) -> Iterator[None]:
    """What draws from torch's global generators, on the CPU and on this device, draws from a seed; they stay as they were."""
    with th.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        th.default_generator.manual_seed(seed)  # th.manual_seed would reseed all GPUs
        if device.type == "cuda":
            with th.cuda.device(device):
                th.cuda.manual_seed(seed)
        yield


def seed_of_torch() -> int:
    """
    Of a generator of one's own, without advancing any other: what torch was seeded with, as SB3 does it right before it builds
    a buffer. If torch has drawn since (models without a seed, one after the other), a number made of its state.
    """
    seed, state = th.initial_seed(), th.get_rng_state()
    if th.equal(state, th.Generator().manual_seed(seed).get_state()):
        return seed % 2**63
    return int.from_bytes(hashlib.sha256(state.numpy().tobytes()).digest()[:7])


def set_generator_state(generator: th.Generator, state: th.Tensor) -> None:
    """Continue a generator, unless its state is of another kind of device."""
    if len(state) == len(generator.get_state()):
        generator.set_state(state.cpu())  # loading onto a GPU moves it there, where torch refuses it


def get_arrays(buffer: BaseBuffer) -> dict[str, Any]:
    """
    A buffer's own ``state_dict``, or of SB3's buffers the arrays (their filled rows only) and plain numbers among the
    attributes.
    """
    size = buffer.size()
    state: dict[str, Any] = {"buffer": type(buffer).__name__, "buffer_size": buffer.buffer_size, "n_envs": buffer.n_envs}
    if hasattr(buffer, "state_dict"):
        return state | {"state_dict": buffer.state_dict()}
    for name, value in vars(buffer).items():
        if isinstance(value, np.ndarray):
            state[name] = th.as_tensor(value[:size] if value.shape[:1] == (buffer.buffer_size,) else value).clone()
        elif isinstance(value, dict) and all(isinstance(item, np.ndarray) for item in value.values()):
            state[name] = {key: th.as_tensor(item[:size]).clone() for key, item in value.items()}
        elif type(value) in (bool, int, float):
            state[name] = value
    return state


def set_arrays(buffer: BaseBuffer, state: dict[str, Any]) -> None:
    """
    Put back what ``get_arrays`` returned.

    :raises ValueError: if the buffer is of another class or size
    """
    state = dict(state)
    kind = state.pop("buffer", type(buffer).__name__)  # older ones do not say
    if kind != type(buffer).__name__:
        raise ValueError(f"it holds a {kind}, where this model has a {type(buffer).__name__}")
    if state["buffer_size"] != buffer.buffer_size or state["n_envs"] != buffer.n_envs:
        raise ValueError(
            f"its buffer holds {state['buffer_size']} x {state['n_envs']} transitions, "
            f"this one {buffer.buffer_size} x {buffer.n_envs}"
        )
    if "state_dict" in state:
        buffer.load_state_dict(state["state_dict"])  # type: ignore[attr-defined]
        return
    for name, value in state.items():
        current = getattr(buffer, name)
        if isinstance(current, dict):
            for key, rows in value.items():
                current[key][: len(rows)] = rows.numpy()
        elif isinstance(current, np.ndarray):
            _rows_of(current, value)[...] = value.numpy()
        else:
            setattr(buffer, name, value)


def truncate_episodes(buffer: Any) -> None:
    """Mark the newest row of a replay buffer as cut off by a time limit: what comes next is another episode."""
    if hasattr(buffer, "truncate_episodes"):
        buffer.truncate_episodes()
    elif buffer is not None and buffer.size() > 0 and getattr(buffer, "handle_timeout_termination", False):
        newest = buffer.pos - 1
        buffer.timeouts[newest] = 1 - buffer.dones[newest] * (1 - buffer.timeouts[newest])
        buffer.dones[newest] = 1


def get_vec_normalize(env: VecNormalize) -> dict[str, Any]:
    """Running statistics of observations, if they are normalised, and returns."""
    return {
        name: {"mean": th.as_tensor(rms.mean), "var": th.as_tensor(rms.var), "count": float(rms.count)}
        for name, rms in _statistics(env).items()
    }


def set_vec_normalize(env: VecNormalize, state: dict[str, Any]) -> None:
    """Put back what ``get_vec_normalize`` returned."""
    for name, rms in _statistics(env).items():
        rms.mean, rms.var = state[name]["mean"].numpy(), state[name]["var"].numpy()
        rms.count = state[name]["count"]


def _statistics(env: VecNormalize) -> dict[str, Any]:
    obs_rms = getattr(env, "obs_rms", {})  # there is none with norm_obs=False
    obs_rms = obs_rms if isinstance(obs_rms, dict) else {"": obs_rms}
    return {**{f"obs:{key}": rms for key, rms in obs_rms.items()}, "return": env.ret_rms}


def load_vec_normalize(env: VecEnv, path: str | Path, **kwargs: Any) -> VecNormalize:
    """
    Normalise observations with the statistics of a checkpoint, without changing them; rewards stay as they are.

    :param env: raw environments
    :param path: the checkpoint's ``vecnormalize.pt``
    :param kwargs: of the run's ``VecNormalize``
    """
    normalized = VecNormalize(env, **{**kwargs, "training": False, "norm_reward": False})
    set_vec_normalize(normalized, th.load(path, weights_only=True))
    return normalized


def _rows_of(storage: Any, rows: th.Tensor) -> Any:
    return storage[: len(rows)] if rows.dim() else storage
