"""Who may take over from a policy: a scripted expert, somebody at a keyboard, somebody with a gamepad."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from sb3_pgr.envs.robots.experts import CLOSE, OPEN, STAY, expert_action
from sb3_pgr.envs.robots.task import RobotTask

_SALT = 7  # other draws than those of an environment with the same seed
# To the right, forward and up, as the front camera sees it.
_KEYS = {"up": (1, 1), "down": (1, -1), "left": (0, -1), "right": (0, 1), "page_up": (2, 1), "page_down": (2, -1)}


class ScriptedSource:
    """
    A scripted expert in place of a person: it watches for some steps, then takes over with a probability that falls over
    the episodes. An oracle is not a human; results with it are to be called so.

    :param probability: that it takes over in the first episode
    :param episodes: after how many episodes it no longer does; the probability falls linearly
    :param patience: steps that the policy is left alone
    :param noise: standard deviation of noise on the expert's movements
    :param expert: ``(env, noise, random) -> action``
    :param seed: of its draws; ``seed`` starts them anew
    """

    def __init__(
        self,
        probability: float = 1.0,
        episodes: int = 100,
        patience: int = 20,
        noise: float = 0.2,
        expert: Callable[[gym.Env, float, np.random.Generator], np.ndarray] = expert_action,
        seed: int = 0,
    ):
        if not 0 <= probability <= 1 or episodes < 1 or patience < 0:
            raise ValueError(f"probability={probability}, episodes={episodes} or patience={patience} is out of range.")
        self.probability, self.episodes, self.patience, self.noise = probability, episodes, patience, noise
        self.expert = expert
        self.seed(seed)
        self.n_episodes = self._steps = 0
        self._will = False

    def seed(self, seed: int) -> None:
        """Draw as from here on with this seed."""
        self.random = np.random.default_rng([seed, _SALT])

    def reset(self, env: gym.Env) -> None:
        left = max(0.0, 1 - self.n_episodes / self.episodes)
        self._will = bool(self.random.random() < self.probability * left)
        self.n_episodes += 1
        self._steps = 0

    def action(self, env: gym.Env) -> np.ndarray | None:
        self._steps += 1
        if not self._will or self._steps <= self.patience:
            return None
        return self.expert(env, self.noise, self.random)


class KeyboardSource:
    """
    Hold an arrow key (right and forward in the front camera's picture), page up or down, O (open) or C (close) to take over;
    let go to give back. Of two arms, Tab changes which one is moved.

    :param n_arms: of the task
    :param learned: whether actions hold gripper commands
    :raises ModuleNotFoundError: without pynput, or where it finds no display
    """

    def __init__(self, n_arms: int = 1, learned: bool = True):
        try:
            from pynput import keyboard
        except ImportError as error:  # pynput raises it where there is no display, too
            raise ModuleNotFoundError(f"The keyboard needs pynput and a display: pip install pynput ({error})") from error
        self.n_arms, self.learned, self._arm = n_arms, learned, 0
        self._held: set[str] = set()
        listener = keyboard.Listener(on_press=self._press, on_release=self._release)
        listener.daemon = True
        listener.start()

    @staticmethod
    def _name(key: Any) -> str:
        return str(getattr(key, "char", None) or getattr(key, "name", "")).lower()  # with Shift or Caps Lock too

    def _press(self, key: Any) -> None:
        if self._name(key) == "tab" and "tab" not in self._held:  # held keys repeat
            self._arm = (self._arm + 1) % self.n_arms
        self._held.add(self._name(key))

    def _release(self, key: Any) -> None:
        self._held.discard(self._name(key))

    def reset(self, env: gym.Env) -> None:
        self._held.clear()

    def action(self, env: gym.Env) -> np.ndarray | None:
        move = np.zeros(3)
        for name in self._held & _KEYS.keys():
            axis, sign = _KEYS[name]
            move += sign * directions(env)[axis]
        command = OPEN if "o" in self._held else CLOSE if "c" in self._held else STAY
        return (
            None if not move.any() and command == STAY else whole_action(move, command, self._arm, self.n_arms, self.learned)
        )


class GamepadSource:
    """
    Hold the right shoulder button to take over: left stick for right and forward in the front camera's picture, right stick
    for up and down, triggers close (left) and open
    (right). Of two arms, the left shoulder button moves the second.

    :param n_arms: of the task
    :param learned: whether actions hold gripper commands
    :raises ModuleNotFoundError: without pygame
    :raises RuntimeError: if no gamepad is connected
    """

    def __init__(self, n_arms: int = 1, learned: bool = True):
        try:
            import pygame
        except ImportError as error:
            raise ModuleNotFoundError(f"A gamepad needs pygame: pip install pygame ({error})") from error
        pygame.init()
        if pygame.joystick.get_count() == 0:
            raise RuntimeError("No gamepad is connected.")
        self.n_arms, self.learned, self._pygame, self._pad = n_arms, learned, pygame, pygame.joystick.Joystick(0)

    def reset(self, env: gym.Env) -> None:
        self._pygame.event.clear()

    def action(self, env: gym.Env) -> np.ndarray | None:
        self._pygame.event.pump()
        pad, arm = self._pad, 0
        if not pad.get_button(5):
            if self.n_arms == 1 or not pad.get_button(4):
                return None
            arm = 1
        sticks = np.array([pad.get_axis(0), -pad.get_axis(1), -pad.get_axis(4)])
        sticks[np.abs(sticks) < 0.1] = 0
        move = sticks @ directions(env)
        command = OPEN if pad.get_axis(5) > 0 else CLOSE if pad.get_axis(2) > 0 else STAY
        return whole_action(move, command, arm, self.n_arms, self.learned)


def directions(env: gym.Env) -> np.ndarray:
    """
    Right, forward and up for somebody who looks at the front camera's picture: the nearest axes of the world.

    :param env: a robot task, wrapped or not; others are looked at along -x
    :return: unit vectors ``(3, 3)``, one a row
    """
    task = getattr(env, "unwrapped", None)
    right, forward = np.array([0.0, 1, 0]), np.array([-1.0, 0, 0])
    if isinstance(task, RobotTask):
        axes = task.data.cam(task.cameras["front"]).xmat.reshape(3, 3).T
        right, forward = _nearest(axes[0]), _nearest(axes[1] - axes[2])
    return np.stack([right, forward, np.array([0.0, 0, 1])])


def _nearest(direction: np.ndarray) -> np.ndarray:
    axis = int(np.abs(direction[:2]).argmax())
    return np.eye(3)[axis] * np.sign(direction[axis])


def whole_action(move: np.ndarray, command: float, arm: int, n_arms: int, learned: bool) -> np.ndarray:
    """
    An action in which one arm moves and the others rest.

    :param move: ``(3,)`` in [-1, 1]
    :param command: of its gripper
    """
    parts = np.zeros((n_arms, 4 if learned else 3), np.float32)
    parts[arm, :3] = np.clip(move, -1, 1)
    if learned:
        parts[arm, 3] = command
    return parts.ravel()


SOURCES = {"scripted": ScriptedSource, "keyboard": KeyboardSource, "gamepad": GamepadSource}
BY_HAND = ("keyboard", "gamepad")
