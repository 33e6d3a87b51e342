"""Entry point of the robots' Gymnasium ids."""

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import HumanRendering
from sb3_pgr.envs.robots.arrange_boxes import ArrangeBoxes
from sb3_pgr.envs.robots.interventions import BY_HAND, SOURCES
from sb3_pgr.envs.robots.lift_tray import LiftTray
from sb3_pgr.envs.robots.pick_cube import PickCube
from sb3_pgr.envs.robots.wrappers import GripperPenalty, Intervention

TASKS = {"pick_cube": PickCube, "arrange_boxes": ArrangeBoxes, "lift_tray": LiftTray}


def make_robot(
    task: str,
    gripper_penalty: float = -0.02,
    interventions: str | None = None,
    intervention_kwargs: dict[str, Any] | None = None,
    render_mode: str | None = None,
    **kwargs: Any,
) -> gym.Env:
    """
    A robot task with its gripper penalty, and somebody who may take over.

    :param task: ``"pick_cube"``, ``"arrange_boxes"`` or ``"lift_tray"``
    :param gripper_penalty: what a change of a learned gripper costs, see ``GripperPenalty``
    :param interventions: ``"scripted"``, ``"keyboard"``, ``"gamepad"`` or None
    :param intervention_kwargs: for the source, see ``interventions``
    :param render_mode: ``"rgb_array"``, None, or ``"human"``: a window, of all cameras by default, at the robot's own pace.
        Whoever takes over by hand gets one anyway
    :param kwargs: of ``RobotTask``
    :raises ValueError: on an unknown choice
    """
    if interventions is not None and interventions not in SOURCES:
        raise ValueError(f"interventions={interventions!r} is not known; choose one of {', '.join(SOURCES)}.")
    if task not in TASKS:
        raise ValueError(f"task={task!r} is not known; choose one of {', '.join(TASKS)}.")
    if intervention_kwargs and interventions is None:
        raise ValueError(f"intervention_kwargs={intervention_kwargs} are given, but nobody intervenes.")
    in_window = render_mode == "human" or interventions in BY_HAND
    if in_window:
        kwargs = {"render_camera": "all"} | kwargs
    env: gym.Env = TASKS[task](render_mode="rgb_array" if in_window else render_mode, **kwargs)
    arms = TASKS[task].mounts
    learned = kwargs.get("gripper", "learned") == "learned"
    if interventions is not None:
        options = {"n_arms": len(arms), "learned": learned} if interventions in BY_HAND else {}
        env = Intervention(env, SOURCES[interventions](**options, **(intervention_kwargs or {})))
    if learned:
        env = GripperPenalty(env, [4 * i + 3 for i in range(len(arms))], gripper_penalty)
    return HumanRendering(env) if in_window else env
