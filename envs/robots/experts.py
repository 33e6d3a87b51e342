"""Scripted experts: one decision at a time, from the present state alone, so that they can take over at any moment."""

from typing import Any

import gymnasium as gym
import numpy as np
from sb3_pgr.envs.robots.arm import GRASPING, STEP, Arm
from sb3_pgr.envs.robots.arrange_boxes import N_BOXES as _N_BOXES
from sb3_pgr.envs.robots.arrange_boxes import NEAR, ArrangeBoxes
from sb3_pgr.envs.robots.lift_tray import LiftTray
from sb3_pgr.envs.robots.pick_cube import PickCube
from sb3_pgr.envs.robots.task import RobotTask

_ABOVE = 0.08  # m over a thing before going down to it
_ALIGNED = 0.012  # m
_GRASPED = 0.03  # m that a thing may be from the fingers that hold it
OPEN, STAY, CLOSE = 1.0, 0.0, -1.0


def expert_action(env: gym.Env, noise: float = 0.0, random: np.random.Generator | None = None) -> np.ndarray:
    """
    What the expert does next.

    :param env: a robot task, wrapped or not
    :param noise: standard deviation of Gaussian noise on the arms' part of the action
    :param random: where noise is drawn from
    :return: action in the task's units, float32
    :raises ValueError: if there is no expert for it
    """
    task = env.unwrapped
    if isinstance(task, PickCube):
        parts = [_pick_cube(task)]
    elif isinstance(task, ArrangeBoxes):
        parts = [_arrange_boxes(task)]
    elif isinstance(task, LiftTray):
        parts = _lift_tray(task)
    else:
        raise ValueError(f"There is no scripted expert for {type(task).__name__}.")
    actions: list[np.ndarray] = []
    for direction, command in parts:
        if noise > 0:
            direction = direction + (random or np.random.default_rng()).normal(0, noise, 3)
        direction = np.clip(direction, -1, 1)
        actions += [direction] if _is_fixed(task) else [direction, np.array([command])]
    return np.concatenate(actions).astype(np.float32)


Part = tuple[np.ndarray, float]


def _is_fixed(task: Any) -> bool:
    return isinstance(task, RobotTask) and task.gripper == "fixed"


def _raised(place: np.ndarray, height: float) -> np.ndarray:
    return place + np.array([0, 0, height])


def _towards(arm: Arm, place: np.ndarray) -> np.ndarray:
    """Action that brings the target to a place, where it can in one step."""
    return (place - arm.target) / STEP


def _holds(arm: Arm, thing: np.ndarray) -> bool:
    return not arm.is_commanded_open and bool(np.linalg.norm(thing - arm.position) < _GRASPED)


def _go_and_grasp(arm: Arm, thing: np.ndarray) -> Part:
    """Over it, down to it, close."""
    away = np.linalg.norm((thing - arm.position)[:2])
    if not arm.is_commanded_open and arm.position[2] < thing[2] + _ABOVE / 2:  # missed it
        return _towards(arm, _raised(arm.position, STEP)), OPEN
    if away > _ALIGNED and arm.position[2] < thing[2] + _ABOVE / 2:  # too low to move across
        return _towards(arm, np.array([*arm.position[:2], thing[2] + _ABOVE])), OPEN
    if away > _ALIGNED:
        return _towards(arm, _raised(thing, _ABOVE)), OPEN
    if arm.position[2] > thing[2] + _ALIGNED:
        return _towards(arm, thing), OPEN
    return _towards(arm, thing), CLOSE


def _pick_cube(task: PickCube) -> Part:
    arm, cube = task.arms[0], task.position_of("cube")
    if task.gripper == "fixed":
        return _towards(arm, arm.target + task.position_of("mark") - cube), CLOSE
    if _holds(arm, cube):
        closed = arm.opening < GRASPING
        return np.array([0, 0, 1.0 if closed else 0.0]), STAY
    return _go_and_grasp(arm, cube)


def _arrange_boxes(task: ArrangeBoxes) -> Part:
    arm = task.arms[0]
    boxes = [task.position_of(f"box{i}") for i in range(_N_BOXES)]
    for i, box in enumerate(boxes):
        if not _holds(arm, box):
            continue
        way = task.to_mark(i)
        if np.linalg.norm(way) < (NEAR / 3 if box[2] > _ABOVE / 2 else 0.6 * NEAR):  # on its way down it may drift a little
            if box[2] > 0.03:
                return np.array([*way / STEP, -1]), STAY
            return np.zeros(3), OPEN
        if arm.opening > GRASPING:  # not yet closed
            return np.zeros(3), STAY
        if box[2] < _ABOVE:
            return np.array([0, 0, 1.0]), STAY
        return np.array([*way / STEP, 0]), STAY
    missing = [i for i in range(_N_BOXES) if np.linalg.norm(task.to_mark(i)) > 0.6 * NEAR]
    if not missing:
        return np.array([0, 0, 1.0]), OPEN
    nearest = min(missing, key=lambda i: float(np.linalg.norm((boxes[i] - arm.position)[:2])))
    return _go_and_grasp(arm, boxes[nearest])


def _lift_tray(task: LiftTray) -> list[Part]:
    if task.gripper == "fixed":
        return [(np.array([0, 0, 0.6]), CLOSE) for _ in task.arms]
    held = [_holds(arm, task.knob(i)) and arm.opening < 0.8 for i, arm in enumerate(task.arms)]
    if all(held):
        return [(np.array([0, 0, 0.6]), STAY) for _ in task.arms]
    parts = []
    for i, arm in enumerate(task.arms):
        holds = _holds(arm, task.knob(i))
        parts.append((np.zeros(3), STAY) if holds else _go_and_grasp(arm, task.knob(i)))
    return parts
