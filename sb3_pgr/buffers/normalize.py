"""What SB3's VecNormalize does to a batch, on tensors."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr.common.device import widest_float


def normalize_obs(obs: Any, env: VecNormalize | None) -> Any:
    """``VecNormalize.normalize_obs`` of a tensor or a dict of tensors, on their device."""
    if env is None or not env.norm_obs:
        return obs
    if isinstance(env.obs_rms, dict):
        return {key: _normalize(value, env.obs_rms[key], env) if key in env.obs_rms else value for key, value in obs.items()}
    return _normalize(obs, env.obs_rms, env)


def normalize_reward(reward: th.Tensor, env: VecNormalize | None) -> th.Tensor:
    """``VecNormalize.normalize_reward``, on the tensor's device."""
    if env is None or not env.norm_reward:
        return reward
    scale = float(np.sqrt(env.ret_rms.var + env.epsilon))
    return (reward.to(widest_float(reward.device)) / scale).clamp(-env.clip_reward, env.clip_reward).float()


def _normalize(obs: th.Tensor, statistics: Any, env: VecNormalize) -> th.Tensor:
    wide = widest_float(obs.device)  # as VecNormalize does
    mean = th.as_tensor(statistics.mean, dtype=wide, device=obs.device)
    std = th.as_tensor(np.sqrt(statistics.var + env.epsilon), dtype=wide, device=obs.device)
    return ((obs.to(wide) - mean) / std).clamp(-env.clip_obs, env.clip_obs).float()
