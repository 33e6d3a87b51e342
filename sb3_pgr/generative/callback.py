"""Binds a model to its generative replay, and shows what the generator does."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pgr.envs.simulator import SimulatorProbe, determines_state
from sb3_pgr.generative.diagnostics import FOLDER, add_dynamics_error, remove_reports, write_report
from sb3_pgr.generative.imagination import RefitReport
from sb3_pgr.generative.replay import SYNTHETIC, GenerativeReplayBuffer


class GenerativeReplayCallback(BaseCallback):
    """
    For SB3's own algorithms with a ``GenerativeReplayBuffer``: lets relevance functions ask the critic, logs under ``pgr/``
    and writes a picture, a table and the data of each refit. ``PGRSAC`` needs no callback.

    :param log_dir: folder for ``diagnostics/``; the logger's by default, which SB3 puts below the system's temporary folder
        unless told otherwise; with ``verbose=1`` the model says where it is. What another run left there is removed at the
        first refit
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
        self._log = RefitLog(self.log_dir, self.progress, buffer.last_report)
        self._log.attach(buffer)

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
    :param reported: the buffer's last refit, if it has been reported already
    """

    def __init__(self, log_dir: str | Path | None = None, progress: bool = False, reported: RefitReport | None = None):
        self.log_dir, self.progress, self.reported = log_dir, progress, reported
        self._simulator: SimulatorProbe | None = None
        self._sought_simulator, self._said_where, self._wrote = False, False, False

    def attach(self, buffer: GenerativeReplayBuffer) -> None:
        """Let a buffer show its progress, if that is wanted."""
        buffer.progress = progress_bar() if self.progress else None

    def follow(self, model: Any) -> None:
        """Record what is new; call it between updates."""
        buffer: GenerativeReplayBuffer = model.replay_buffer
        for name, value in buffer.relevance_log.items():
            model.logger.record(f"pgr/{name}", value)
        if buffer.size() > 0:
            model.logger.record("pgr/synthetic_share", buffer.present_shares()[SYNTHETIC])
        report = buffer.last_report
        if report is None or report is self.reported:
            return
        self.reported = report
        if not self._sought_simulator:
            self._simulator, self._sought_simulator = _simulator(model), True
        if report.arrays and self._simulator is not None:
            add_dynamics_error(report, self._simulator)
        for name, value in report.scalars.items():
            model.logger.record(f"pgr/{name}", value)
        model.logger.record("pgr/diverged", float(report.problem is not None))
        folder = self.log_dir or model.logger.get_dir()
        if folder is not None:
            if model.verbose and not self._said_where:
                print(f"Diagnostics of the generator: {Path(folder) / FOLDER}")
                self._said_where = True
            if not self._wrote:
                self._wrote = True
                remove_reports(Path(folder) / FOLDER, after=-1 if buffer.generator.n_fits <= 1 else report.step)
            write_report(report, Path(folder) / FOLDER)


def _simulator(model: Any) -> SimulatorProbe | None:
    """The model's environment once more, if its state can be set; a diagnostic must not stop training."""
    try:
        spec = model.env.get_attr("spec")[0]
        if spec is None or not determines_state(spec):
            return None
        # SB3's Monitor cannot be made from a specification, and nobody is to look at this one.
        wrappers = tuple(wrapper for wrapper in spec.additional_wrappers if wrapper.name != "Monitor")
        kwargs = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
        env = gym.make(dataclasses.replace(spec, additional_wrappers=wrappers, kwargs=kwargs))
        if env.observation_space.shape != model.observation_space.shape:
            raise ValueError(f"observations of {spec.id} have another shape than the model's")
        return SimulatorProbe(env)
    except Exception as error:
        if model.env is not None:
            warnings.warn(f"Dynamics errors are not measured: {error}", stacklevel=2)
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
