"""Makes RL Zoo know our algorithms. Importing this imports rl_zoo3, which has side effects on gymnasium."""

import difflib
from typing import Any

import optuna
from rl_zoo3 import ALGOS
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER, convert_offpolicy_params
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pgr.bc import BC
from sb3_pgr.bcq import BCQ
from sb3_pgr.cql import CQL
from sb3_pgr.hybrid_sac import HybridSAC
from sb3_pgr.iql import IQL
from sb3_pgr.pgrsac import PGRSAC
from sb3_pgr.redq import REDQ
from sb3_pgr.td3_bc import TD3BC
from sb3_pgr.zoo.errors import UsageError


def sample_redq_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Search space of REDQ."""
    return convert_redq_params(
        {
            "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.001, 0.03, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 2e-3, log=True),
            "batch_size_pow": trial.suggest_int("batch_size_pow", 6, 9),
            "tau": trial.suggest_float("tau", 0.001, 0.02, log=True),
            "gradient_steps": trial.suggest_categorical("gradient_steps", [5, 10, 20]),
            "n_critics": trial.suggest_categorical("n_critics", [2, 5, 10]),
            "target_mode": trial.suggest_categorical("target_mode", ["min", "mean"]),
            "layer_norm": trial.suggest_categorical("layer_norm", [False, True]),
        }
    )


def convert_redq_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """From sampled values to constructor arguments."""
    params = convert_offpolicy_params({**sampled_params, "net_arch": "big"})
    policy_kwargs = {**params.get("policy_kwargs", {}), "net_arch": [256, 256], "layer_norm": params.pop("layer_norm")}
    return {**params, "policy_kwargs": policy_kwargs, "policy_delay": params["gradient_steps"]}


def sample_pgrsac_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Search space of PGRSAC: the replay alone, the agent stays as configured."""
    return convert_pgrsac_params(
        {
            "synthetic_ratio": trial.suggest_float("synthetic_ratio", 0.0, 0.75),
            "cond_top_frac": trial.suggest_float("cond_top_frac", 0.02, 0.5, log=True),
            "cfg_scale": trial.suggest_float("cfg_scale", 1.0, 2.5),
            "retrain_every": trial.suggest_categorical("retrain_every", [2_500, 5_000, 10_000]),
            "sigma_start": trial.suggest_float("sigma_start", 0.1, 4.0, log=True),
            "relevance": trial.suggest_categorical("relevance", ["curiosity", "td_error", "return", "uniform"]),
        }
    )


def convert_pgrsac_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """From sampled values to constructor arguments."""
    params = dict(sampled_params)
    sigma_start = params.pop("sigma_start")
    return {**params, "generator": {"sigma_start": sigma_start}}


def sample_hybrid_sac_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Search space of HybridSAC."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True),
        "gamma": trial.suggest_categorical("gamma", [0.95, 0.97, 0.98, 0.99]),
        "tau": trial.suggest_float("tau", 0.002, 0.02, log=True),
        "cta_ratio": trial.suggest_categorical("cta_ratio", [1, 2, 4]),
        "gradient_steps": trial.suggest_categorical("gradient_steps", [1, 2, 4]),
        "actor_value": trial.suggest_categorical("actor_value", ["mean", "min"]),
        "demo_share": trial.suggest_categorical("demo_share", [0.25, 0.5]),
    }


def convert_hybrid_sac_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """From sampled values to constructor arguments."""
    return dict(sampled_params)


OFFLINE: dict[str, type[BaseAlgorithm]] = {"bc": BC, "bcq": BCQ, "cql": CQL, "iql": IQL, "td3_bc": TD3BC}


def register() -> None:
    """Add our algorithms to RL Zoo's tables; safe to call twice."""
    ALGOS.update(OFFLINE)
    ALGOS["redq"] = REDQ
    HYPERPARAMS_SAMPLER["redq"] = sample_redq_params
    HYPERPARAMS_CONVERTER["redq"] = convert_redq_params
    ALGOS["pgrsac"] = PGRSAC
    HYPERPARAMS_SAMPLER["pgrsac"] = sample_pgrsac_params
    HYPERPARAMS_CONVERTER["pgrsac"] = convert_pgrsac_params
    ALGOS["hybrid_sac"] = HybridSAC
    HYPERPARAMS_SAMPLER["hybrid_sac"] = sample_hybrid_sac_params
    HYPERPARAMS_CONVERTER["hybrid_sac"] = convert_hybrid_sac_params


def resolve_algorithm(name: str) -> type[BaseAlgorithm]:
    """
    :raises UsageError: on an unknown name, with the nearest ones
    """
    if name not in ALGOS:
        nearest = difflib.get_close_matches(name, list(ALGOS), n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
        raise UsageError(f"There is no algorithm '{name}'.{hint} There are: {', '.join(sorted(ALGOS))}.")
    return ALGOS[name]
