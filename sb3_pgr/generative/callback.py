"""Binds a model to its generative replay, and shows what the generator does."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pgr.envs.simulator import SimulatorProbe
from sb3_pgr.generative.diagnostics import FOLDER, Simulator, add_dynamics_error, write_report
from sb3_pgr.generative.imagination import RefitReport
from sb3_pgr.generative.replay import SYNTHETIC, GenerativeReplayBuffer


class GenerativeReplayCallback(BaseCallback):
    """
    For SB3's own algorithms with a ``GenerativeReplayBuffer``: lets relevance functions ask the critic, logs under ``pgr/``
    and writes a picture, a table and the data of each refit. ``PGRSAC`` needs no callback.

    :param log_dir: folder for ``diagnostics/``; the logger's by default (without either, nothing is written)
    :param progress: show a progress bar during a refit (needs tqdm)
    """

    def __init__(self, log_dir: str | Path | None = None, progress: bool = False):
        super().__init__()
        self.log_dir, self.progress = log_dir, progress

    def _init_callback(self) -> None:
        buffer = getattr(self.model, "replay_buffer", None)
        if not isinstance(buffer, GenerativeReplayBuffer):
            raise TypeError(f"GenerativeReplayCallback needs a GenerativeReplayBuffer, not {type(buffer).__name__}.")
        buffer.bind_model(self.model)
        self._log = RefitLog(self.log_dir, self.progress)

    def _on_rollout_start(self) -> None:
        self._log.follow(self.model)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._log.follow(self.model)


class RefitLog:
    """
    Follows a model's generative replay: logs its state and reports every refit once.

    :param log_dir: folder for ``diagnostics/``; the model's logger's by default
    :param progress: show a progress bar during a refit
    """

    def __init__(self, log_dir: str | Path | None = None, progress: bool = False):
        self.log_dir, self.progress = log_dir, progress
        self._reported: RefitReport | None = None

    def follow(self, model: Any) -> None:
        """Record what is new; call it between updates."""
        buffer: GenerativeReplayBuffer = model.replay_buffer
        if self.progress and buffer.progress is None:
            buffer.progress = progress_bar()
        for name, value in buffer.relevance_log.items():
            model.logger.record(f"pgr/{name}", value)
        if buffer.size() > 0:
            model.logger.record("pgr/synthetic_share", buffer.present_shares()[SYNTHETIC])
        report = buffer.last_report
        if report is None or report is self._reported:
            return
        self._reported = report
        simulator = self._simulator(model)
        if report.arrays and simulator is not None:
            add_dynamics_error(report, simulator)
        for name, value in report.scalars.items():
            model.logger.record(f"pgr/{name}", value)
        model.logger.record("pgr/diverged", float(report.problem is not None))
        folder = self.log_dir or model.logger.get_dir()
        if folder is not None:
            write_report(report, Path(folder) / FOLDER)

    @functools.cache  # noqa: B019 (one log, one model)
    def _simulator(self, model: BaseAlgorithm) -> Simulator | None:
        """The model's environment once more, if its state can be set."""
        assert model.env is not None
        spec = model.env.get_attr("spec")[0]
        if spec is None:
            return None
        try:
            # SB3's Monitor cannot be made from a specification.
            wrappers = tuple(wrapper for wrapper in spec.additional_wrappers if wrapper.name != "Monitor")
            env = gym.make(dataclasses.replace(spec, additional_wrappers=wrappers))
            if env.observation_space.shape != model.observation_space.shape:
                return None
            return SimulatorProbe(env).step
        except (ValueError, gym.error.Error, TypeError):
            return None


def progress_bar() -> Any:
    """A function of done and total that draws bars on standard error; None without tqdm."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    bars: list[Any] = []

    def show(done: int, total: int) -> None:
        if not bars or bars[-1].total != total:
            bars[:] = [tqdm(total=total, desc="generator", leave=False)]
        bars[-1].update(done - bars[-1].n)
        if done >= total:
            bars.pop().close()

    return show
