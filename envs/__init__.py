"""Gymnasium environments of sb3_pgr; importing this registers their ids, and nothing heavy."""

from sb3_pgr.envs.registration import list_env_ids, register_envs, resolve_env_id, sb3_vec_env
from sb3_pgr.envs.rendering import choose_renderer

__all__ = ["choose_renderer", "list_env_ids", "register_envs", "resolve_env_id", "sb3_vec_env"]
