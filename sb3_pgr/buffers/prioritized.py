"""Prioritized experience replay."""

from typing import Any

import torch as th
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr.buffers.samples import WeightedSamples
from sb3_pgr.buffers.schedules import Schedule, schedule_value
from sb3_pgr.buffers.sum_tree import SumTree
from sb3_pgr.buffers.tensor_replay import TensorReplayBuffer

# Even the least of priorities must be drawn one day, and the largest be a number, whatever alpha is.
_SMALLEST, _LARGEST = 1e-30, 1e30


class PrioritizedReplayBuffer(TensorReplayBuffer):
    """
    Prioritized experience replay (Schaul et al. 2016, https://arxiv.org/abs/1511.05952), the proportional variant.

    A row of priority ``p`` is drawn with a probability in proportion to ``(p + epsilon) ** alpha``; new rows get the
    largest priority so far. Batches carry importance ``weights`` (the largest of each batch is 1) and the ``indices``
    that ``update_priorities`` takes.

    ``REDQ`` applies the weights in its loss and updates the priorities by itself. With SB3's own ``DQN``, ``SAC`` and
    ``TD3`` add ``PrioritizedReplayCallback``; their losses cannot apply the weights, so what they learn from stays
    biased towards rows of high error (``beta`` has no effect there; a smaller ``alpha`` biases less).

    :param args: positional arguments of ``TensorReplayBuffer``
    :param alpha: how much the priorities matter; 0 draws uniformly
    :param beta: how much of the bias the weights correct: a number, ``(start, end, n_transitions)`` for a linear
        schedule over the transitions added, or a function of their number (no lambda if the buffer is to be pickled)
    :param epsilon: added to every priority, so that no row is lost for good
    :param kwargs: keyword arguments of ``TensorReplayBuffer``
    :raises ValueError: if ``alpha`` is negative, ``epsilon`` is not positive or ``beta`` is not a schedule
    """

    def __init__(self, *args: Any, alpha: float = 0.6, beta: Schedule = 0.4, epsilon: float = 1e-6, **kwargs: Any):
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha={alpha} must be a number that is not negative.")
        if not 0 < epsilon < float("inf"):
            raise ValueError(f"epsilon={epsilon} must be positive.")
        if not 0 <= schedule_value(beta, 0, "beta") < float("inf"):
            raise ValueError(f"beta={beta} must not be negative.")
        super().__init__(*args, **kwargs)
        self.alpha, self.beta, self.epsilon = alpha, beta, epsilon
        self.n_added = 0
        self.drawn: list[th.Tensor] | None = None
        self._new_tree()

    def _new_tree(self) -> None:
        self._tree = SumTree(self.buffer_size * self.n_envs, self._home)
        self._max_priority = th.ones((), device=self._home)
        self._n_fresh = 0
        self._unchecked: tuple[Any, ...] | None = None

    def remember_draws(self) -> None:
        """Collect the indices of every batch in ``drawn``, for someone who knows the errors only later."""
        if self.drawn is None:  # otherwise they come from a checkpoint
            self.drawn = []

    def reset(self) -> None:
        """Forget all rows and their priorities."""
        super().reset()
        self._new_tree()
        self.drawn = None if self.drawn is None else []

    def _advance(self, count: int, done: Any) -> None:
        super()._advance(count, done)
        self.n_added += count * self.n_envs
        self._n_fresh = min(self._n_fresh + count, self.buffer_size)

    def _flush(self) -> None:
        """Give new rows their priority, all at once."""
        if self._n_fresh == 0:
            return
        stop = self.pos * self.n_envs
        start = stop - self._n_fresh * self.n_envs
        if start < 0:
            size = self.buffer_size * self.n_envs
            self._tree.fill(size + start, size, self._max_priority)
        self._tree.fill(max(start, 0), stop, self._max_priority)
        self._n_fresh = 0

    def priorities(self) -> th.Tensor:
        """What each row's probability is in proportion to, ``(size, n_envs)``."""
        self._flush()
        return self._tree.leaves.view(-1, self.n_envs)[: self.size()]

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> WeightedSamples:  # type: ignore[override]
        """
        Draw ``batch_size`` rows by priority.

        :return: ``WeightedSamples``, tensors of shape ``(batch_size, ...)``
        :raises ValueError: if the buffer is empty
        """
        return self._draw((batch_size,), env)

    def sample_block(self, gradient_steps: int, batch_size: int, env: VecNormalize | None = None) -> WeightedSamples:
        """
        Draw the batches of a whole series of updates, by the priorities of now.

        :return: ``WeightedSamples``, tensors of shape ``(gradient_steps, batch_size, ...)``
        :raises ValueError: if the buffer is empty
        """
        return self._draw((gradient_steps, batch_size), env)

    def _draw(self, shape: tuple[int, ...], env: VecNormalize | None) -> WeightedSamples:
        self._check_can_sample(*shape)
        self._flush()
        batch_size, batches = shape[-1], shape[0] if len(shape) > 1 else 1
        index = self._tree.sample(batch_size, self.generator, batches)
        priorities, index = self._tree.leaves.index_select(0, index).view(shape), index.view(shape)
        # (N P)^-beta over the largest of the batch: number of rows and total cancel.
        beta = schedule_value(self.beta, self.n_added, "beta")
        weights = (priorities / priorities.amin(-1, keepdim=True)).pow(-beta).unsqueeze(-1)
        if self.drawn is not None:
            self.drawn.append(index)
        rows = self.rows(index, env)
        return WeightedSamples(
            rows.observations,
            rows.actions,
            rows.next_observations,
            rows.dones,
            rows.rewards,
            rows.discounts,
            weights.to(self.device),
            index.to(self.device),
        )

    def update_priorities(self, indices: th.Tensor, priorities: th.Tensor) -> None:
        """
        Set the priorities of rows, as a rule to the absolute TD errors.

        :param indices: as a batch names them
        :param priorities: of the same number of elements; finite and not negative
        :raises ValueError: naming rows whose priority is NaN, infinite or negative; on a GPU, where waiting for the
            answer would stall it, at the following call. These rows keep the largest priority
        """
        indices = th.as_tensor(indices, dtype=th.int64, device=self._home).flatten()
        priorities = th.as_tensor(priorities, dtype=th.float32, device=self._home).detach().flatten()
        if len(indices) != len(priorities):
            raise ValueError(f"{len(indices)} indices need as many priorities, got {len(priorities)}.")
        if len(indices) == 0:
            return
        raised = (priorities + self.epsilon).pow(self.alpha)
        if self._home.type == "cuda":
            self._check_later(indices, priorities)
            good = (priorities >= 0) & priorities.isfinite()
            raised = th.where(good, raised, self._max_priority)
        else:
            self._check(indices, priorities)
        raised.clamp_(_SMALLEST, _LARGEST)
        self._flush()
        self._max_priority = th.maximum(self._max_priority, raised.amax())
        self._tree.update(indices, raised)

    def _check(self, indices: th.Tensor, priorities: th.Tensor) -> None:
        first, last = (int(bound) for bound in indices.aminmax())
        if first < 0 or last >= self.size() * self.n_envs:
            row = (first if first < 0 else last) // self.n_envs
            raise ValueError(f"Row {row} has no priority: there are {self.size()} rows.")
        low, high = priorities.aminmax()  # NaN if there is one
        if low.item() >= 0 and high.item() < float("inf"):
            return
        bad = ~((priorities >= 0) & priorities.isfinite())
        rows = [(int(i // self.n_envs), int(i % self.n_envs)) for i in indices[bad][:10]]
        raise ValueError(
            f"Priorities must be finite and not negative. {int(bad.sum())} are not; (row, environment) of the "
            f"first: {rows}, with priorities {priorities[bad][:10].tolist()}."
        )

    def _check_later(self, indices: th.Tensor, priorities: th.Tensor) -> None:
        """Check what the last call left on its way to the host, and send this call's."""
        if self._unchecked is not None:
            arrived, *unchecked = self._unchecked
            arrived.synchronize()
            self._unchecked = None
            self._check(*unchecked)
        copies = [value.to("cpu", non_blocking=True) for value in (indices, priorities)]
        event = th.cuda.Event()
        event.record(th.cuda.current_stream(self._home))
        self._unchecked = (event, *copies)

    def _move(self, device: th.device) -> None:
        state = self._priority_state()
        super()._move(device)
        self._load_priorities(state)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self._priority_state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._load_priorities(state)

    def _priority_state(self) -> dict[str, Any]:
        priorities = self.priorities().cpu()
        drawn = None if self.drawn is None else [index.cpu() for index in self.drawn]
        max_priority = self._max_priority.cpu().clone()
        return {"priorities": priorities, "max_priority": max_priority, "n_added": self.n_added, "drawn": drawn}

    def _load_priorities(self, state: dict[str, Any]) -> None:
        if len(state["priorities"]) > self.buffer_size:
            raise ValueError(f"{len(state['priorities'])} rows of priorities do not fit into {self.buffer_size}")
        self._new_tree()
        priorities = state["priorities"].flatten().to(self._home)
        self._tree.fill(0, len(priorities), priorities)
        self._max_priority = state["max_priority"].to(self._home)
        self.n_added, self._n_fresh = state["n_added"], 0
        self.drawn = None if state["drawn"] is None else [index.to(self._home) for index in state["drawn"]]

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__() | {"_priorities": self._priority_state()}
        for name in ("_tree", "_max_priority", "_unchecked", "drawn"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        priorities = state.pop("_priorities")
        super().__setstate__(state)
        self._load_priorities(priorities | {"drawn": None})  # nobody collects the draws of a buffer from a file yet
