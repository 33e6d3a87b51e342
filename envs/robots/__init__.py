"""Manipulation with Franka Panda arms in MuJoCo."""

from sb3_pgr.envs.robots.arrange_boxes import ArrangeBoxes
from sb3_pgr.envs.robots.lift_tray import LiftTray
from sb3_pgr.envs.robots.pick_cube import PickCube

__all__ = ["ArrangeBoxes", "LiftTray", "PickCube"]
