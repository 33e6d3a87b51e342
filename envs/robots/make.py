"""Entry point of the robots' Gymnasium ids."""

from typing import Any

import gymnasium as gym
from sb3_pgr.envs.robots.arrange_boxes import ArrangeBoxes
from sb3_pgr.envs.robots.interventions import SOURCES
from sb3_pgr.envs.robots.lift_tray import LiftTray
from sb3_pgr.envs.robots.pick_cube import PickCube
from sb3_pgr.envs.robots.wrappers import GripperPenalty, Intervention

TASKS = {"pick_cube": PickCube, "arrange_boxes": ArrangeBoxes, "lift_tray": LiftTray}


def make_robot(
    task: str,
    gripper_penalty: float = -0.02,
    interventions: str | None = None,
    intervention_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> gym.Env:
    """
    A robot task with its gripper penalty, and somebody who may take over.

    :param task: ``"pick_cube"``, ``"arrange_boxes"`` or ``"lift_tray"``
    :param gripper_penalty: what a change of a learned gripper costs, see ``GripperPenalty``
    :param interventions: ``"scripted"``, ``"keyboard"``, ``"gamepad"`` or None
    :param intervention_kwargs: for the source, see ``interventions``
    :param kwargs: of ``RobotTask``
    :raises ValueError: on an unknown choice
    """
    if interventions is not None and interventions not in SOURCES:
        raise ValueError(f"interventions={interventions!r} is not known; choose one of {', '.join(SOURCES)}.")
    env: gym.Env = TASKS[task](**kwargs)
    arms = TASKS[task].mounts
    learned = kwargs.get("gripper", "learned") == "learned"
    if interventions is not None:
        options = {} if interventions == "scripted" else {"n_arms": len(arms), "learned": learned}
        env = Intervention(env, SOURCES[interventions](**options, **(intervention_kwargs or {})))
    return GripperPenalty(env, [4 * i + 3 for i in range(len(arms))], gripper_penalty) if learned else env
