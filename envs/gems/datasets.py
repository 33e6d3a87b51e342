"""Datasets of latent actions and what is seen before and after, with the slates and clicks behind them."""

from collections.abc import Callable

import numpy as np
from sb3_pgr.envs.gems.actions import LatentActions
from sb3_pgr.envs.gems.observations import Belief, Observed, Privileged
from sb3_pgr.envs.gems.policies import SlatePolicy
from sb3_pgr.envs.gems.users import Users

Act = Callable[[Observed], np.ndarray]  # actions (n_users, latent_dim) in [-1, 1] for observations
AT_A_TIME = 1_000


def record(
    users: Users,
    act: Act | None,
    show: SlatePolicy | None,
    first_user: int,
    n_users: int,
    on_users: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """
    Whole episodes of an agent, or of a policy of slates; episode by episode, ``n_users * horizon`` rows.

    The latent action of a slate that no agent decoded is the encoder's mean for the slate and the clicks that it got, clipped
    to the box of actions.

    :param users: with latent actions, and beliefs or privileged observations
    :param act: the agent
    :param show: instead of ``act``: the policy
    :param first_user: number of the first user
    :param on_users: called with a number of users that have just been done
    :return: ``observations``, ``actions`` in [-1, 1], ``rewards``, ``next_observations``, ``terminals`` (none: episodes end by
        time), ``timeouts``; and ``slates`` int16, ``clicks`` uint8, ``latents`` (the behaviour's own; of slates that no agent
        decoded, not clipped), ``episode_ids``, ``timesteps``
    :raises ValueError: if actions or observations are others, or not exactly one behaviour is given
    """
    if not isinstance(users.actions, LatentActions) or not isinstance(users.observations, Belief | Privileged):
        raise ValueError(
            "Datasets have latent actions, and beliefs or privileged observations: "
            "make_users(..., actions='latent', observations='belief')."
        )
    if n_users < 1:
        raise ValueError(f"n_users={n_users} must be at least 1.")
    if (act is None) == (show is None):
        raise ValueError("Give either an agent or a policy of slates.")
    parts = []
    for first in range(0, n_users, AT_A_TIME):
        n = min(AT_A_TIME, n_users - first)
        parts.append(_episodes(users, users.actions, act, show, first_user + first, n))
        if on_users is not None:
            on_users(n)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _episodes(
    users: Users, coding: LatentActions, act: Act | None, show: SlatePolicy | None, first_user: int, n: int
) -> dict[str, np.ndarray]:
    horizon = users.engine.config.horizon
    seen = [users.reset(np.arange(first_user, first_user + n), 0)]
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("actions", "rewards", "slates", "clicks", "latents")}
    for _ in range(horizon):
        if act is not None:
            actions = np.clip(np.asarray(act(seen[-1]), np.float32), -1, 1)
            obs, rewards, _ = users.step(actions)
            latents = coding.model.to_latents(actions)
        else:
            assert show is not None
            obs, rewards, _ = users.show(show(users.engine))
            latents = coding.model.latents(users.slates, users.outcome.clicks)
            actions = np.clip(coding.model.to_actions(latents), -1, 1)
        row = (actions, rewards.astype(np.float32), users.slates, users.outcome.clicks, latents)
        for column, value in zip(columns.values(), row):
            column.append(value)
        seen.append(obs)
    arrays = {name: np.stack(column, 1).reshape(n * horizon, *column[0].shape[1:]) for name, column in columns.items()}
    observed = np.stack([np.asarray(obs, np.float32) for obs in seen], 1)
    timesteps = np.tile(np.arange(horizon, dtype=np.int16), n)
    return {
        "observations": observed[:, :-1].reshape(n * horizon, -1),
        "actions": arrays["actions"],
        "rewards": arrays["rewards"],
        "next_observations": observed[:, 1:].reshape(n * horizon, -1),
        "terminals": np.zeros(n * horizon, bool),
        "timeouts": timesteps == horizon - 1,
        "slates": arrays["slates"].astype(users.engine.items.number_dtype),
        "clicks": arrays["clicks"].astype(np.uint8),
        "latents": arrays["latents"].astype(np.float32),
        "episode_ids": np.repeat(np.arange(first_user, first_user + n, dtype=np.int64), horizon),
        "timesteps": timesteps,
    }


def through_decoder(users: Users, policy: SlatePolicy) -> Act:
    """
    A policy of slates as an agent, for ``record``: its slates are encoded, with the clicks that they would get, and what that
    decodes to is shown instead of them.

    :param users: with latent actions
    """
    engine, model = users.engine, users.actions.model  # type: ignore[attr-defined]

    def act(obs: Observed) -> np.ndarray:
        slates, before = policy(engine), engine.get_state()
        clicks = engine.step(slates).clicks
        engine.set_state(before)
        return np.asarray(model.to_actions(model.latents(slates, clicks)))

    return act
