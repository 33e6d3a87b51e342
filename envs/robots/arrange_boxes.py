"""Put five boxes on the marks of their colours."""

from typing import ClassVar

import mujoco
import numpy as np
from sb3_pgr.envs.robots.scene import FACING_X, Mount, add_box, table_top
from sb3_pgr.envs.robots.task import RobotTask

HALF = 0.02  # m
NEAR = 0.03  # m, along the floor
_COLOURS = ((1, 0, 0), (0, 0, 1), (0.9, 0.8, 0.1), (0.2, 0.66, 0.32), (0.6, 0.3, 0.6))
N_BOXES = len(_COLOURS)
_ROWS = np.linspace(-0.24, 0.24, N_BOXES)  # y, within the arm's reach with room for the fingers
_START_X, _MARK_X = 0.3, 0.5


class ArrangeBoxes(RobotTask):
    """
    One Panda arm and five boxes in a row, in an order that is drawn anew; each belongs on the mark of its colour, 20 cm
    behind the row (after gym-hil's ``PandaArrangeBoxes``, whose outer boxes lie at the very end of the arm's range).

    Success is every box within 3 cm of its mark. The task's part of the state is, for each box, its position and what its
    mark is from it, in metres. There is no variant with a fixed gripper. Parameters are those of ``RobotTask``.
    """

    mounts: ClassVar[tuple[Mount, ...]] = (FACING_X,)
    bounds = (0.2, -0.3, 0.0), (0.6, 0.3, 0.5)
    cameras: ClassVar[dict[str, str]] = {"front": "front", "wrist": "handcam_rgb"}

    def _scene(self) -> mujoco.MjSpec:
        if self.gripper == "fixed":
            raise ValueError("ArrangeBoxes cannot be done with gripper='fixed'.")
        spec = table_top(self.mounts, 'pos="1.3 0 0.7" quat="0.5963678 0.3799282 0.3799282 0.5963678"')
        for i, (colour, y) in enumerate(zip(_COLOURS, _ROWS, strict=True)):
            add_box(spec, f"box{i}", (_START_X, y, HALF), (HALF,) * 3, (*colour, 1))
            add_box(spec, f"mark{i}", (_MARK_X, y, 0), (0.04, 0.04, 0.002), (*colour, 0.5), mass=None)
        return spec

    def _place(self) -> None:
        for i, y in enumerate(self.np_random.permutation(_ROWS)):
            self.put(f"box{i}", (_START_X, y, HALF))

    def to_mark(self, i: int) -> np.ndarray:
        """From a box to its mark along the floor ``(2,)``, in metres."""
        return (self.position_of(f"mark{i}") - self.position_of(f"box{i}"))[:2]

    def _task_state(self) -> np.ndarray:
        return np.concatenate([part for i in range(N_BOXES) for part in (self.position_of(f"box{i}"), self.to_mark(i))])

    def is_success(self) -> bool:
        return all(
            np.linalg.norm(self.to_mark(i)) < NEAR and self.position_of(f"box{i}")[2] < 2 * HALF for i in range(N_BOXES)
        )

    def _dense_reward(self) -> float:
        return float(sum(np.exp(-20 * np.linalg.norm(self.to_mark(i))) for i in range(N_BOXES)) / N_BOXES)
