"""Gymnasium ids: DeepMind Control tasks, and help for ids that do not exist."""

import difflib
import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

GEMS = "sb3_pgr.envs.gems.env:GemsEnv"
# Steps of an episode, and whether there is a variant with fixed grippers.
ROBOTS = {"pick_cube": (100, True), "arrange_boxes": (300, False), "lift_tray": (100, True)}

# dm_control's suite, spelled out so that registering does not import it (tests compare the two).
DMC_TASKS: dict[str, tuple[str, ...]] = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}


def register_envs() -> None:
    """Register ``dmc/<domain>-<task>-v0``, the bare ``<domain>-<task>-v0`` of PGR, GeMS and robots; safe to call twice."""
    _register_robots()
    for items in ("focused", "diffuse"):
        for world in ("topdown", "mix", "divpen"):
            for suffix, options in (("", {}), ("_latent", dict(actions="latent", observations="belief"))):
                env_id = f"gems/{items}_{world}{suffix}-v0"
                if env_id not in gym.registry:
                    gym.register(
                        env_id,
                        entry_point=GEMS,
                        vector_entry_point="sb3_pgr.envs.gems.vector:GemsVectorEnv",
                        kwargs=dict(items=items, world=world, **options),
                    )
    for domain, tasks in DMC_TASKS.items():
        for task in tasks:
            for env_id in (f"dmc/{domain}-{task}-v0", f"{domain}-{task}-v0"):
                if env_id not in gym.registry:
                    entry_point = "sb3_pgr.envs.dmc:make_dmc"
                    gym.register(env_id, entry_point=entry_point, kwargs=dict(domain=domain, task=task))
    for env_id in list(gym.registry):
        successor = _successor_of_retired(env_id)
        if successor is not None:
            spec = gym.registry[env_id]
            spec.entry_point = "sb3_pgr.envs.registration:refuse_retired"
            spec.kwargs = dict(env_id=env_id, successor=successor)


def _register_robots() -> None:
    for task, (steps, has_fixed) in ROBOTS.items():
        for suffix, gripper in (("", "learned"), ("_fixed", "fixed")):
            if suffix and not has_fixed:
                continue
            for ending, observations in (("", "state"), ("_images", "images")):
                env_id = f"robots/{task}{suffix}{ending}-v0"
                if env_id not in gym.registry:
                    gym.register(
                        env_id,
                        entry_point="sb3_pgr.envs.robots.make:make_robot",
                        max_episode_steps=steps,
                        kwargs=dict(task=task, gripper=gripper, observations=observations),
                    )


def sb3_vec_env(env_id: str, env_kwargs: dict[str, Any] | None = None) -> Callable[..., Any] | None:
    """
    What simulates many copies of an environment together, to be given to SB3's ``make_vec_env`` as ``vec_env_cls``.

    :param env_kwargs: of the environments. It does not see those that ``make_vec_env`` is given, nor its ``wrapper_class``
    :return: none if there is no such thing, or something is to be drawn, and copies run one by one
    """
    spec, options = gym.spec(env_id), env_kwargs or {}
    if spec.entry_point != GEMS or options.get("render_mode") is not None:
        return None

    def together(env_fns: Sequence[Any], **_: Any) -> Any:
        from sb3_pgr.envs.gems.vector import GemsVecEnv

        env = GemsVecEnv(len(env_fns), **{**spec.kwargs, **options})
        env.spec = spec
        return env

    return together


def refuse_retired(env_id: str, successor: str, **kwargs: Any) -> gym.Env:
    """Entry point of Gymnasium's v2 and v3 MuJoCo ids, which need the discontinued mujoco-py."""
    raise gym.error.DeprecatedEnv(f"{env_id} needs mujoco-py and is no longer available; use {successor}.")


def _successor_of_retired(env_id: str) -> str | None:
    """The newest id of a MuJoCo task whose v2 or v3 id this is."""
    match = re.fullmatch(r"(\w+)-v[23]", env_id)
    if match is None:
        return None
    successor = f"{match[1]}-v5"
    entry_point = getattr(gym.registry.get(successor), "entry_point", None)
    return successor if isinstance(entry_point, str) and "mujoco" in entry_point else None


def list_env_ids() -> list[str]:
    """The ids this library adds or vouches for: DeepMind Control, GeMS, robots, and Gymnasium's MuJoCo tasks v4 and v5."""
    dmc = [f"dmc/{domain}-{task}-v0" for domain, tasks in DMC_TASKS.items() for task in tasks]
    mujoco = [
        env_id
        for env_id, spec in gym.registry.items()
        if isinstance(spec.entry_point, str)
        and "envs.mujoco" in spec.entry_point
        and env_id.endswith(("-v4", "-v5"))
        # Pusher-v4 was made for MuJoCo 2 and refuses to start on any later one.
        and env_id != "Pusher-v4"
    ]
    gems = [env_id for env_id in gym.registry if env_id.startswith("gems/")]
    robots = [env_id for env_id in gym.registry if env_id.startswith("robots/")]
    return sorted(dmc) + sorted(gems) + sorted(robots) + sorted(mujoco)


def resolve_env_id(env_id: str) -> str:
    """
    Check an id before anything is built.

    :param env_id: or ``module:id``, as ``gym.make`` takes it: the module is imported, which registers it
    :return: the id itself
    :raises gymnasium.error.Error: on an unknown id, with the nearest ones; on a retired one, with its successor
    """
    module, _, env_id = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise gym.error.NameNotFound(f"{module}:{env_id}: there is no module '{error.name}'.") from None
    successor = _successor_of_retired(env_id)
    if successor is not None:
        refuse_retired(env_id, successor)
    if env_id not in gym.registry:
        nearest = difflib.get_close_matches(env_id, list(gym.registry), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
        raise gym.error.NameNotFound(
            f"There is no environment '{env_id}'.{hint} `sb3-pgr list-envs` prints those of this library; one of your own is "
            "named with the module that registers it, my_package:MyEnv-v0."
        )
    return env_id
