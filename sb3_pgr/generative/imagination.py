"""Relevance, generator and dynamics head together: from real transitions to relevant synthetic ones."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th

from sb3_pgr.common.memory import total_memory
from sb3_pgr.common.state import own_randomness, set_generator_state
from sb3_pgr.generative.config import GeneratorConfig
from sb3_pgr.generative.critics import ModelValues
from sb3_pgr.generative.discrete_rewards import RewardHead
from sb3_pgr.generative.dynamics import DynamicsHead
from sb3_pgr.generative.generator import GeneratorDivergedError, Progress, TransitionGenerator
from sb3_pgr.generative.metrics import correlation_error, marginal_distances, nearest_distances
from sb3_pgr.generative.normalizers import StandardNormalizer
from sb3_pgr.generative.relevance import Relevance, Transitions, checked_values, make_relevance
from sb3_pgr.generative.termination import TerminationHead

N_REPORTED = 4_000
COPIES = 6  # of what is drawn, at the most, on the way into a buffer


class GeneratorMismatchError(RuntimeError):
    """What was saved does not go with this relevance or these heads (SB3's ``load`` takes ValueErrors for something else)."""


@dataclass
class RefitReport:
    """
    What a refit did.

    :param step: transitions seen when it was done
    :param scalars: what is logged under ``pgr/``
    :param arrays: joined vectors ``(m, d)``, some thousands of each: ``real``, ``relevant`` (the real ones whose relevance
        was asked for) and ``synthetic``; ``relevance_real``, ``relevance_prompted`` and ``relevance_generated`` ``(m,)``;
        ``nearest_real`` and ``nearest_synthetic`` ``(m,)``
    :param parts: which columns of a joined vector are what
    :param problem: why its rows are not used; None if they are
    """

    step: int
    scalars: dict[str, float]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: str | None = None


class Imagination:
    """
    Learns what real transitions are like and which are relevant, and imagines more of those.

    :param obs_dim: numbers of a flat observation
    :param action_dim: numbers of a continuous action; 1 for a discrete one
    :param n_actions: number of discrete actions; 0 for continuous ones
    :param relevance: name, mapping or instance, see ``make_relevance``
    :param generator: preset, mapping or ``GeneratorConfig``
    :param cond_top_frac: share of the real rows, the most relevant, whose relevance is asked for
    :param policy_actions: give generated states the actions of the present policy instead of generated ones; needs a
        model and the generator's dynamics head
    :param max_outside: share of generated numbers that may lie outside the box of the real ones (widened by a tenth) before
        the generator counts as diverged; up to there they are clamped to the box
    :param device: where everything is done
    :param seed: of its random numbers; global generators are not touched
    :raises ValueError: if an argument is out of range or not known
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        n_actions: int = 0,
        relevance: str | dict[str, Any] | Relevance = "curiosity",
        generator: str | dict[str, Any] | GeneratorConfig = "lean",
        cond_top_frac: float = 0.25,
        policy_actions: bool = False,
        max_outside: float = 0.05,
        device: th.device | str = "cpu",
        seed: int = 0,
    ):
        for name, value in (("cond_top_frac", cond_top_frac), ("max_outside", max_outside)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}={value} must be above 0 and at most 1.")
        self.device = th.device(device)
        self.relevance = make_relevance(relevance)
        self.generator = TransitionGenerator(obs_dim, action_dim, n_actions, generator, self.device, seed)
        self.dynamics, self.rewards, self.termination = None, None, None
        sizes = obs_dim, action_dim, n_actions
        if self.generator.config.dynamics_head:
            steps, graphs = self.generator.config.dynamics_steps, self.generator.captures
            self.dynamics = DynamicsHead(*sizes, train_steps=steps, device=self.device, seed=seed + 1, cuda_graph=graphs)
            if self.generator.config.reward_values:
                few = self.generator.config.reward_values
                self.rewards = RewardHead(*sizes, few, train_steps=steps, device=self.device, seed=seed + 5, cuda_graph=graphs)
            if self.generator.config.terminals:
                self.termination = TerminationHead(*sizes, device=self.device, seed=seed + 4, cuda_graph=graphs)
        if policy_actions and self.dynamics is None:
            raise ValueError("policy_actions=True needs the dynamics head: generator=dict(dynamics_head=True).")
        self.cond_top_frac, self.policy_actions, self.max_outside = cond_top_frac, policy_actions, max_outside
        self.relevance.cuda_graph = self.generator.captures
        with own_randomness(seed + 2, self.device):
            self.relevance.setup(obs_dim, action_dim, n_actions, self.device)
        self.random = th.Generator(self.device).manual_seed(seed + 3)

    @property
    def needs_model(self) -> bool:
        return self.relevance.needs_model or self.policy_actions

    def require_memory(self, n: int) -> None:
        """
        :raises MemoryError: if ``n`` transitions cannot be drawn on this device
        """
        needed, limit = COPIES * 4 * self.generator.layout.dim * n, total_memory(self.device)
        if limit is not None and needed > limit:
            raise MemoryError(
                f"To draw num_samples={n:,} transitions of {self.generator.layout.dim} numbers takes about "
                f"{needed / 1e9:,.0f} GB; {self.device} has {limit / 1e9:,.0f} GB."
            )

    def require_model(self) -> None:
        """
        :raises RuntimeError: if relevance or actions need a learning algorithm, and none is bound
        """
        if self.needs_model and self.relevance.model is None:
            raise RuntimeError(
                f"Relevance {type(self.relevance).__name__} or policy_actions asks the learning algorithm, unbound yet. "
                "Use PGRSAC, pass GenerativeReplayCallback() to learn(), or call replay_buffer.bind_model(model)."
            )

    def manual_seed(self, seed: int) -> None:
        """Draw from here on from this seed; what was learned stays."""
        for offset, part in ((0, self.generator), (1, self.dynamics), (4, self.termination), (5, self.rewards)):
            if part is not None:
                part.generator.manual_seed(seed + offset)
        self.random.manual_seed(seed + 3)

    def bind(self, model: ModelValues) -> None:
        """Give relevance and actions the learning algorithm."""
        self.relevance.model = model

    def imagine(
        self, real: Transitions, n: int, step: int = 0, progress: Progress | None = None
    ) -> tuple[dict[str, th.Tensor] | None, RefitReport]:
        """
        Fit on real transitions and draw relevant ones.

        :param real: rows in the order of their collection, with ``episode_ends``
        :param n: how many to draw
        :param step: transitions seen so far, for the report
        :param progress: called with the steps of the fit done and their number, then with the rows drawn
        :return: ``n`` synthetic transitions within the box of the real ones (fewer if some were not finite), or None if the
            generator diverged; and a report
        :raises ValueError: if the relevance is of the wrong shape or not finite
        :raises MemoryError: as ``require_memory``
        :raises RuntimeError: as ``require_model``
        """
        self.require_model()
        self.require_memory(n)
        n_real = len(real["rewards"])
        self.relevance.observe(real)
        relevance = checked_values(self.relevance, real)
        parts = {name: (rows.start, rows.stop) for name, rows in self.generator.layout.parts.items()}
        report = RefitReport(step, {"n_real": n_real}, parts=parts)
        try:
            fit = self.generator.fit(dict(real), None if self.relevance.unconditional else relevance, progress)
            report.scalars |= {"generator_loss": fit["loss"], "fit_seconds": fit["seconds"]}
            if self.dynamics is not None:
                started = time.perf_counter()
                report.scalars["dynamics_loss"] = self.dynamics.fit(real)
                for name, head in (("reward", self.rewards), ("termination", self.termination)):
                    loss = None if head is None else head.fit(real)
                    report.scalars |= {} if loss is None else {f"{name}_loss": loss}
                report.scalars["dynamics_seconds"] = time.perf_counter() - started
        except GeneratorDivergedError as error:
            report.problem = str(error)
            return None, report
        started = time.perf_counter()
        synthetic, chosen, outside = self._drawn(real, relevance, n, progress)
        n_synthetic = len(synthetic["rewards"])
        report.scalars |= {"sample_seconds": time.perf_counter() - started, "outside": outside, "n_synthetic": n_synthetic}
        if n_synthetic:
            self._describe(report, real, relevance, synthetic, chosen)
        if outside > self.max_outside:
            report.problem = (
                f"{outside:.1%} of the generated numbers lie outside the box of the real ones "
                f"(max_outside={self.max_outside:.1%})."
            )
            return None, report
        return synthetic, report

    def draw(self, real: Transitions, n: int, progress: Progress | None = None) -> dict[str, th.Tensor]:
        """
        Draw more from the last fit.

        :param real: the rows of that fit
        :return: ``n`` transitions (fewer if some were not finite)
        """
        self.relevance.observe(real)
        return self._drawn(real, checked_values(self.relevance, real), n, progress)[0]

    def _drawn(
        self, real: Transitions, relevance: th.Tensor, n: int, progress: Progress | None
    ) -> tuple[dict[str, th.Tensor], th.Tensor, float]:
        """Transitions within the box of the real ones, the rows whose relevance was asked for, and what had lain outside."""
        chosen = self._choose(relevance, n)
        prompt = None if self.relevance.unconditional else relevance[chosen]
        start = {name: rows[chosen] for name, rows in real.items()} if self.generator.config.sigma_start else None
        synthetic = self.generator.sample(n, prompt, start, progress)
        outside = self.generator.outside
        if self.policy_actions:
            assert self.relevance.model is not None
            seed = int(th.randint(2**62, (1,), generator=self.random, device=self.device))
            with own_randomness(seed, self.device):
                synthetic["actions"] = self.relevance.model.actions(synthetic["observations"], deterministic=False)
        if not self.generator.layout.n_actions:
            synthetic["actions"] = synthetic["actions"].clamp(-1, 1)
        if self.dynamics is not None:
            outcome = self.dynamics.outcome(synthetic["observations"], synthetic["actions"])
            synthetic["next_observations"], synthetic["rewards"] = outcome
        box = StandardNormalizer.fit(th.cat([real["rewards"], real["next_observations"]], 1))
        rows = box.normalize(th.cat([synthetic["rewards"], synthetic["next_observations"]], 1))
        outside = max(outside, box.outside(rows))
        rows = box.denormalize(box.clamp(rows))
        synthetic["rewards"], synthetic["next_observations"] = rows[:, :1], rows[:, 1:]
        places = [synthetic[name] for name in ("observations", "actions", "next_observations")]
        rewards = None if self.rewards is None else self.rewards.draw(*places)
        if rewards is not None:
            synthetic["rewards"] = rewards
        if self.termination is not None:
            synthetic["dones"] = self.termination.draw(*places)
        finite = th.stack([rows.isfinite().all(1) for rows in synthetic.values()]).all(0)
        return {name: rows[finite] for name, rows in synthetic.items()}, chosen, outside

    def _choose(self, relevance: th.Tensor, n: int) -> th.Tensor:
        """Real rows ``(n,)`` whose relevance is asked for: drawn from the most relevant ones."""
        if self.relevance.unconditional:
            among = th.arange(len(relevance), device=self.device)
        else:
            mixed = th.randperm(len(relevance), generator=self.random, device=self.device)  # so that ties are broken by chance
            among = mixed[relevance[mixed].topk(max(int(self.cond_top_frac * len(relevance)), 1)).indices]
        return among[th.randint(len(among), (n,), generator=self.random, device=self.device)]

    def _describe(
        self,
        report: RefitReport,
        real: Transitions,
        relevance: th.Tensor,
        synthetic: dict[str, th.Tensor],
        chosen: th.Tensor,
    ) -> None:
        """Compare some thousands of synthetic rows with real ones: those whose relevance was asked for, and all."""
        layout, conditional = self.generator.layout, not self.relevance.unconditional
        some = th.randperm(len(relevance), generator=self.random, device=self.device)[:N_REPORTED]
        drawn = {name: part[:N_REPORTED] for name, part in synthetic.items()}

        def joined(rows: th.Tensor) -> th.Tensor:
            return layout.join({name: part[rows] for name, part in real.items()}, absolute=True)

        of_all, of_chosen, of_drawn = joined(some), joined(chosen[:N_REPORTED]), layout.join(drawn, absolute=True)
        scale = of_all.std(0)
        scale = th.where(scale > 1e-6, scale, th.ones_like(scale))  # numbers that never change
        few, everything = min(1_000, len(of_all), len(of_drawn)), layout.join(dict(real), absolute=True)
        arrays = {
            "real": of_all,
            "relevant": of_chosen,
            "synthetic": of_drawn,
            "relevance_real": relevance[some],
            "nearest_real": nearest_distances(of_all[:few], everything, scale, skip_first=True),
            "nearest_synthetic": nearest_distances(of_drawn[:few], everything, scale),
        }
        if conditional:
            arrays["relevance_prompted"] = relevance[chosen[:N_REPORTED]]
        if conditional and not self.relevance.of_real_rows_only:
            alone = drawn | {"episode_ends": th.ones_like(drawn["dones"])}
            arrays["relevance_generated"] = checked_values(self.relevance, alone)
        report.arrays = {name: part.cpu().numpy() for name, part in arrays.items()}
        means = {name: float(part.mean()) for name, part in arrays.items() if name.startswith("relevance_")}
        typical = arrays["nearest_real"].median().clamp(min=1e-6)
        report.scalars |= means | {
            "marginal_distance": float(marginal_distances(of_chosen, of_drawn).mean()),
            "correlation_error": correlation_error(of_chosen, of_drawn),
            "nearest_ratio": float(arrays["nearest_synthetic"].median() / typical),
        }
        if layout.terminals:
            report.scalars["terminals_relevant"] = float(real["dones"][chosen].mean())
            report.scalars["terminals_synthetic"] = float(synthetic["dones"].mean())

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning and drawing have changed, as tensors and plain values."""
        return {
            "generator": self.generator.state_dict(),
            "relevance": self.relevance.state_dict(),
            "relevance_of": type(self.relevance).__name__,
            "dynamics": None if self.dynamics is None else self.dynamics.state_dict(),
            "rewards": None if self.rewards is None else self.rewards.state_dict(),
            "termination": None if self.termination is None else self.termination.state_dict(),
            "random": self.random.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """
        Put back what ``state_dict`` returned.

        :raises GeneratorMismatchError: if it is of another relevance or other heads
        :raises RuntimeError: if it is of other sizes
        """
        if state["relevance_of"] != type(self.relevance).__name__:
            raise GeneratorMismatchError(
                f"Saved with relevance {state['relevance_of']}; this one has {type(self.relevance).__name__}."
            )
        self.generator.load_state_dict(state["generator"])
        self.relevance.load_state_dict(state["relevance"])
        for name, head in (("dynamics", self.dynamics), ("termination", self.termination)):
            if (head is None) != (state[name] is None):
                raise GeneratorMismatchError("The saved generator and this one differ in dynamics_head or terminals.")
            if head is not None:
                head.load_state_dict(state[name])
        if self.rewards is not None and state.get("rewards") is not None:  # files of before have none, and learn it anew
            self.rewards.load_state_dict(state["rewards"])
        set_generator_state(self.random, state["random"])
