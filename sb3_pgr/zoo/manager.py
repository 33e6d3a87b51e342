"""RL Zoo's experiment manager with packaged configs, early checks, exact resume, ``progress.csv`` and videos."""

import argparse
import copy
import shutil
import signal
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from pprint import pprint
from typing import Any

import yaml
from rl_zoo3 import ALGOS
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import get_class_by_name
from sb3_contrib.common.vec_env import AsyncEval
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger, TensorBoardOutputFormat
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_wrapper

from sb3_pgr.common.callbacks import ResumableCheckpoint, VideoCallback
from sb3_pgr.common.checkpoint import start_segment, why_not_resumable
from sb3_pgr.common.health import FiniteVecEnv, NonFiniteTransitionError
from sb3_pgr.common.progress_csv import ResumableCSV
from sb3_pgr.common.run_files import VIDEOS
from sb3_pgr.envs import sb3_vec_env
from sb3_pgr.envs.rendering import require_renderer
from sb3_pgr.generative.imagination import GeneratorMismatchError
from sb3_pgr.offline.dataset import DatasetError, OfflineDataset
from sb3_pgr.rewards import let_task_judge
from sb3_pgr.zoo.arguments import option
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.evaluations import restore_evaluations
from sb3_pgr.zoo.gems_models import with_fingerprints
from sb3_pgr.zoo.hyperparams import check_hyperparams, check_keywords
from sb3_pgr.zoo.offline import is_stand_in, recorded_with
from sb3_pgr.zoo.rendering import chosen_size, make_render_env, require_picture
from sb3_pgr.zoo.run_folder import (
    CHECKPOINTS,
    TRAINING_ONLY,
    read_run_file,
    require_writable,
    resume_point,
    write_run_file,
)
from sb3_pgr.zoo.scores import SCORES, report_scores

FINAL_EPISODES, FINAL_ENVS = 100, 10  # of the last evaluation
_MULTI = "MultiInputPolicy"  # what SB3 asks for


@dataclass
class Extras:
    """What our command line knows beyond RL Zoo's."""

    checkpoint_freq: int = 10_000
    keep_checkpoints: int = 3
    video_freq: int = 0
    video_episodes: int = 1
    video_width: int | None = None
    video_height: int | None = None
    video_fps: int | None = None
    resume: Path | None = None
    hyperparams: dict[str, Any] | None = None  # of the resumed run
    dataset: str | None = None
    loaded: OfflineDataset | None = None  # what is in it
    demonstrations: str | None = None
    demonstrated: OfflineDataset | None = None  # what is in them, where a run begins
    final_episodes: int | None = None
    argv: list[str] = field(default_factory=list)


class Manager(ExperimentManager):
    """
    RL Zoo's ``ExperimentManager``; see ``Extras`` for what is new.

    :param args: RL Zoo's arguments
    :param extras: set on the class by the command line, since RL Zoo builds the manager itself
    """

    extras = Extras()

    def __init__(self, args: argparse.Namespace, algo: str, env_id: str, log_folder: str, *rest: Any, **kwargs: Any):
        given = kwargs.get("config")
        if given is None or not Path(given).exists():  # a packaged configuration may be named by its file name alone
            packaged = resources.files("sb3_pgr.zoo_configs") / (given or f"{algo}.yml")
            kwargs["config"] = str(packaged) if packaged.is_file() else given
        super().__init__(args, algo, env_id, log_folder, *rest, **kwargs)
        if self.extras.resume is not None:
            self.save_path = str(self.extras.resume)
            self.params_path = f"{self.save_path}/{self.env_name}"
        if not self.optimize_hyperparameters:
            require_writable(self.log_path if self.extras.resume is None else self.save_path)
        if self.extras.video_freq > 0:
            try:
                require_renderer()
            except RuntimeError as error:
                raise UsageError(str(error)) from None
        self.checkpoint: ResumableCheckpoint | None = None

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            hyperparams, saved = self._stored_hyperparameters() or super().read_hyperparameters()
        except AttributeError:  # no mapping of names to settings
            raise UsageError(f"{self.config} must map environments, or `default`, to their hyper-parameters.") from None
        except ValueError as error:
            if "Hyperparameters not found" not in str(error):
                raise
            raise UsageError(f"{self.config} has neither settings for {self.env_name.gym_id} nor a `default`.") from None
        except FileNotFoundError:
            raise UsageError(f"There is no configuration file {self.config}.") from None
        except yaml.YAMLError as error:
            raise UsageError(f"{self.config} is not valid YAML: {error}") from None
        if self.extras.dataset is not None:
            hyperparams["dataset"] = saved["dataset"] = self.extras.dataset
            if hyperparams.get("n_envs", 1) != 1:
                raise UsageError(
                    "n_envs must be 1 with --dataset: a timestep is a gradient step; --n-eval-envs sets evaluations."
                )
        if self.extras.demonstrations is not None:
            saved["demonstrations"] = self.extras.demonstrations
            if self.extras.resume is None:
                hyperparams["demonstrations"] = self.extras.demonstrations
            else:
                hyperparams.pop("demonstrations", None)  # they are in the checkpoint, their file may be gone
        given = {**(hyperparams.get("env_kwargs") or {}), **self.env_kwargs}
        sources = self.extras.loaded, self.extras.demonstrated
        recorded, wrapping = recorded_with(self.env_name.gym_id, given, hyperparams, *sources)
        hyperparams |= wrapping
        saved |= wrapping
        env_kwargs = with_fingerprints(self.env_name.gym_id, recorded | given, self.extras.loaded, self.extras.resume)
        if "fingerprints" in env_kwargs or recorded:
            hyperparams["env_kwargs"] = saved["env_kwargs"] = env_kwargs
            self.args.env_kwargs = self.args.env_kwargs and env_kwargs  # where given, `enjoy` reads these
        check_hyperparams(ALGOS[self.algo], hyperparams, (self.custom_hyperparams or {}).keys(), self.config)
        return hyperparams, copy.deepcopy(saved)

    def _stored_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Of a run that is resumed, whose files of settings may be gone; None if only those know them."""
        stored = self.extras.hyperparams
        if stored is None:
            return None
        print("Hyper-parameters of the run:")
        saved = OrderedDict(sorted(stored.items()))
        pprint(saved)
        return copy.deepcopy(stored), saved

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        # RL Zoo evaluates these as python, so a dotted name there means nothing to it.
        for key in ("replay_buffer_class", "rollout_buffer_class"):
            name = hyperparams.get(key)
            if isinstance(name, str) and "." in name and name.replace(".", "").replace("_", "").isalnum():
                try:
                    hyperparams[key] = get_class_by_name(name)
                except (ImportError, AttributeError):
                    raise UsageError(f"{key}: there is no class {name}.") from None
        if "actor_learning_rate" in hyperparams:  # a schedule that RL Zoo does not know
            rate = {"learning_rate": hyperparams["actor_learning_rate"]}
            hyperparams["actor_learning_rate"] = self._preprocess_schedules(rate)["learning_rate"]
        # Monitor would overwrite the episodes of the part before the resume.
        if self.extras.resume is not None:
            hyperparams["monitor_kwargs"] = {**hyperparams.get("monitor_kwargs", {}), "override_existing": False}
        result = super()._preprocess_hyperparams(hyperparams)
        if self.normalize and self.frame_stack is not None and issubclass(ALGOS[self.algo], OffPolicyAlgorithm):
            raise UsageError(f"normalize and frame_stack: {self.algo} would store single observations where stacks belong.")
        # RL Zoo forgets env_kwargs from YAML or -params when it builds the evaluation environment.
        if self._eval_env_kwargs_args is None:
            self.eval_env_kwargs = {name: value for name, value in self.env_kwargs.items() if name not in TRAINING_ONLY}
        policy = hyperparams.get("policy")
        if isinstance(policy, str):
            if policy not in ALGOS[self.algo].policy_aliases:
                known = ", ".join(ALGOS[self.algo].policy_aliases)
                raise UsageError(f"policy: {ALGOS[self.algo].__name__} has no policy '{policy}'. There are: {known}.")
            policy = ALGOS[self.algo].policy_aliases[policy]
        for owner, name in ((policy, "policy_kwargs"), (hyperparams.get("replay_buffer_class"), "replay_buffer_kwargs")):
            if isinstance(owner, type) and isinstance(hyperparams.get(name), dict):
                check_keywords(owner, hyperparams[name], name)
        return result

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        hyperparams = super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)
        return hyperparams if self.extras.loaded is None else hyperparams | {"dataset": self.extras.loaded}

    def create_callbacks(self) -> None:
        if self.eval_freq > 0 and option(self.extras.argv, "--eval-freq") is None:  # ten in a short run, which else had none
            self.eval_freq = min(self.eval_freq, max(self.n_timesteps // 10, 1_000))
        super().create_callbacks()
        if self.optimize_hyperparameters:
            return
        resume_from = resume_point(self.save_path) if self.extras.resume is not None else None
        self.checkpoint = ResumableCheckpoint(
            Path(self.save_path) / CHECKPOINTS,
            self.extras.checkpoint_freq,
            self.extras.keep_checkpoints,
            resume_from=resume_from,
        )
        self.callbacks.append(self.checkpoint)
        if self.extras.video_freq > 0:
            require_picture(self, self._video_size)
            self.callbacks.append(
                VideoCallback(
                    lambda: make_render_env(self, self._video_size),
                    Path(self.save_path) / VIDEOS,
                    self.env_name,
                    self.extras.video_freq,
                    self.extras.video_episodes,
                    self._video_size,
                    self.extras.video_fps,
                )
            )

    @property
    def _video_size(self) -> tuple[int, int] | None:
        return chosen_size(self.extras.video_width, self.extras.video_height)

    def create_envs(self, *args: Any, **kwargs: Any) -> VecEnv:
        # Ctrl-C reaches the whole process group; processes of environments inherit that they ignore it.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        env_kwargs = self.eval_env_kwargs if kwargs.get("eval_env") else self.env_kwargs
        together = sb3_vec_env(self.env_name.gym_id, env_kwargs)
        chosen = self.vec_env_class
        if together is not None and self.env_wrapper is None:
            self.vec_env_class = together  # type: ignore[assignment]
        try:
            return super().create_envs(*args, **kwargs)
        finally:
            self.vec_env_class = chosen
            signal.signal(signal.SIGINT, previous)

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        if eval_env:
            let_task_judge(env)
        # Below VecNormalize, whose running statistics one NaN would spoil.
        watched = FiniteVecEnv(env, "Evaluation step" if eval_env else "Step")
        return super()._maybe_normalize(watched, eval_env)

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        was_there = Path(self.save_path).exists()
        try:
            results = self._set_up()
        except UsageError:
            if not was_there:  # a run that never began
                shutil.rmtree(self.save_path, ignore_errors=True)
            raise
        if results is None:
            return None
        model, saved_hyperparams = results
        if self.checkpoint is not None and self.checkpoint.resume_from is not None:
            self._require_same_dataset(model)
            self.checkpoint.restore(model)
            print(f"Resuming from {self.checkpoint.resume_from} at step {model.num_timesteps}")
            self._restore_callbacks(model)
            self._count_steps_left(model)
        elif self.extras.loaded is None and sb3_vec_env(self.env_name.gym_id, self.env_kwargs) is not None:
            start_segment(model)  # SB3 seeds users by seed, seed + 1, ...: runs of neighbouring seeds would share them
        not_resumable = self._drop_impossible_checkpoint(model)
        fingerprint = getattr(model, "dataset_fingerprint", None)
        write_run_file(self.save_path, self.extras.argv, self.seed, saved_hyperparams, fingerprint, not_resumable)
        model.set_logger(self._logger(model))
        return model, saved_hyperparams

    def _set_up(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """RL Zoo's, whose refusals are no bugs."""
        where = f"{self.algo} on {self.env_name.gym_id}"
        try:
            return super().setup_experiment()
        except UsageError:
            raise
        except DatasetError as error:  # it names its file
            raise UsageError(str(error)) from error
        except (ValueError, AssertionError, GeneratorMismatchError) as error:  # SB3 asserts what it cannot do
            advice = (
                "; choose it by -params policy:\"'MultiInputPolicy'\", or in a file for -conf." if _MULTI in str(error) else ""
            )
            raise UsageError(f"{where}: {error}{advice}") from error
        except (TypeError, RuntimeError) as error:
            if not any(text in str(error) for text in ("unexpected keyword argument", "negative dimension")):
                raise
            raise UsageError(f"{where}: {error}.") from error

    def _require_same_dataset(self, model: BaseAlgorithm) -> None:
        before = read_run_file(self.save_path)["dataset_fingerprint"]
        now = getattr(model, "dataset_fingerprint", None)
        if before is not None and before != now:
            stored = read_run_file(self.save_path)["argv"]
            raise UsageError(
                f"{self.extras.dataset} is not what the run learned from, which was {option(stored, '--dataset')} as it was "
                f"then (fingerprints {str(before)[:12]} then, {str(now)[:12]} now)."
            )

    def _drop_impossible_checkpoint(self, model: BaseAlgorithm) -> str | None:
        reason = why_not_resumable(model)
        if reason is not None and self.checkpoint is not None:
            print(f"No resumable checkpoints: {reason}.")
            self.callbacks.remove(self.checkpoint)
            self.checkpoint = None
        return reason

    def _count_steps_left(self, model: BaseAlgorithm) -> None:
        """``learn`` counts from where it starts: leave it the steps that are still to do."""
        if model.num_timesteps >= self.n_timesteps:
            if self._final_episodes(model) is not None and not (Path(self.save_path) / SCORES).exists():
                self.n_timesteps = 0  # it was stopped between its last update and its scores
                return
            raise UsageError(
                f"{self.save_path} has already reached step {model.num_timesteps} of {self.n_timesteps}; "
                "give a larger -n to train on."
            )
        self.n_timesteps -= model.num_timesteps
        assert model.env is not None
        watched = unwrap_vec_wrapper(model.env, FiniteVecEnv)
        assert watched is not None
        watched.timestep = model.num_timesteps

    def _restore_callbacks(self, model: BaseAlgorithm) -> None:
        calls = model.num_timesteps // model.n_envs
        for callback in self.callbacks:
            callback.n_calls = calls
            if isinstance(callback, EvalCallback):
                restore_evaluations(callback, model.num_timesteps)

    def _logger(self, model: BaseAlgorithm) -> Logger:
        since = model.num_timesteps if self.extras.resume is not None else 0
        formats: list[KVWriter] = [ResumableCSV(Path(self.save_path) / "progress.csv", since)]
        if self.verbose > 0:
            formats.append(HumanOutputFormat(sys.stdout))
        if self.tensorboard_log is not None:
            run = Path(self.save_path).name
            formats.append(TensorBoardOutputFormat(str(Path(self.tensorboard_log) / self.algo / run)))
        return Logger(self.save_path, formats)

    def _final_episodes(self, model: BaseAlgorithm) -> int | None:
        """Of the evaluation at the end; none if no scores are wanted."""
        offline = getattr(model, "dataset", None) is not None
        episodes = self.extras.final_episodes
        if episodes is None:
            return FINAL_EPISODES if offline else None
        return episodes if offline or episodes else None

    def _report_scores(self, model: BaseAlgorithm) -> None:
        """Of the last policy; by default of runs that learned from a dataset, which may have no environment."""
        episodes = self._final_episodes(model)
        if episodes is None:
            return
        env = None
        if episodes and not is_stand_in(self.env_name.gym_id):
            env = self.create_envs(min(FINAL_ENVS, episodes), eval_env=True)
        try:
            report_scores(model, self.algo, env, Path(self.save_path), episodes)
        except Exception:
            self.save_trained_model(model)  # which else comes last
            raise

    def _say_if_too_short(self, model: BaseAlgorithm) -> None:
        steps, starts = model.num_timesteps + self.n_timesteps, getattr(model, "learning_starts", 0)
        if self.extras.dataset is None and steps <= starts:
            print(f"Nothing is learned in {steps} steps: learning_starts={starts}.")
        every = getattr(getattr(model, "replay_buffer", None), "retrain_every", 0)
        if steps < every:
            print(f"Nothing is generated in {steps} steps: retrain_every={every}.")

    def learn(self, model: BaseAlgorithm) -> None:
        kwargs: dict[str, Any] = {"reset_num_timesteps": self.extras.resume is None}
        if self.log_interval != -1:
            kwargs["log_interval"] = self.log_interval if self.log_interval > -1 else None
        if self.algo == "ars" and self.n_envs > 1:
            envs = [lambda: self.create_envs(n_envs=1, no_log=True)] * self.n_envs
            kwargs["async_eval"] = AsyncEval(envs, model.policy)
        try:
            if self.n_timesteps > 0:
                self._say_if_too_short(model)
                (Path(self.save_path) / SCORES).unlink(missing_ok=True)  # of a shorter run
                model.learn(self.n_timesteps, callback=self.callbacks, **kwargs)
            if self.n_timesteps > 0 and self.checkpoint is not None and self.extras.checkpoint_freq > 0:
                self.checkpoint.save()  # so that the run can be extended with --resume RUN -n MORE
            self._report_scores(model)
        except KeyboardInterrupt:
            self.save_trained_model(model)
            if self.checkpoint is not None:
                print(f"Interrupted at step {model.num_timesteps}. Continue with: sb3-pgr train --resume {self.save_path}")
            raise
        except NonFiniteTransitionError as error:
            if self.checkpoint is None:
                raise
            path = self.checkpoint.save()
            raise NonFiniteTransitionError(f"{error} A checkpoint of the state before it is in {path}.") from None
        finally:
            if self.checkpoint is not None:
                self.checkpoint.release()
            _end(self.callbacks)
            assert model.env is not None
            evaluated = [callback.eval_env for callback in self.callbacks if isinstance(callback, EvalCallback)]
            for env in (model.env, *evaluated):
                env.close()
            model.logger.close()


def _end(callbacks: list[BaseCallback]) -> None:
    """Close the progress bar, as RL Zoo does after an interruption; only it needs closing."""
    for callback in callbacks:
        if hasattr(callback, "pbar") and callback.pbar is not None:
            callback.on_training_end()
            callback.pbar = None
