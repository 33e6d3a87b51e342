"""Runs an algorithm's update over a block of batches: eager, compiled or as one CUDA graph, in float32 or bfloat16."""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch as th
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from sb3_pgr.common.optimizers import compile_alone, make_traceable, traced_gradients

Block = dict[str, Any]  # tensors (gradient_steps, batch_size, ...), or dicts of such
Update = Callable[[Block, bool], dict[str, th.Tensor]]
PRECISIONS = ("fp32", "bf16")
LONGEST_BLOCK = 100  # updates whose batches are drawn together; the episodes of images may ask for thousands
F = TypeVar("F", bound=Callable[..., Any])


class UpdateEngine:
    """
    An algorithm hands its loss functions to ``wrap`` and its update function to ``run``; it does not know how they
    are executed. Metrics stay on the device and are read once per block.

    :param device: device of the networks
    :param compile: compile the update (losses, gradients, Adam, targets) into one graph with ``torch.compile``
    :param precision: ``"fp32"``, or ``"bf16"`` for bfloat16 autocast (parameters and optimisers stay float32)
    :param cuda_graph: capture the whole block as one CUDA graph; without effect on other devices, where a model may be loaded
    :raises ValueError: on an unknown precision
    """

    def __init__(self, device: th.device, compile: bool = False, precision: str = "fp32", cuda_graph: bool = False):
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is not known; choose one of {', '.join(PRECISIONS)}.")
        self.device = device
        self.compile = compile
        self.precision = precision
        self.cuda_graph = cuda_graph and device.type == "cuda"
        self._graphs: dict[Any, CudaGraph] = {}
        self._states: list[Any] = []  # of the optimisers that the graphs were captured with
        self._compiled: Update | None = None
        if device.type == "cpu":
            keep_freed_memory()

    def blocks(self, updates: int) -> Iterator[int]:
        """Lengths of the blocks that a number of updates is done in; of a CUDA graph it is one."""
        longest = updates if self.cuda_graph else LONGEST_BLOCK
        while updates > 0:
            yield min(longest, updates)
            updates -= longest

    def wrap(self, loss_fn: F) -> F:
        """Wrap a pure function of tensors and modules in the engine's precision; a copied model calls its own."""
        return partial(_in_precision, self.device.type, self.precision == "bf16", loss_fn)  # type: ignore[return-value]

    def run(
        self,
        update: Update,
        block: Block,
        flags: Sequence[bool],
        optimizers: Sequence[th.optim.Optimizer] = (),
        results: Sequence[str] = (),
    ) -> dict[str, float]:
        """
        Apply ``update(batch, flag)`` to each batch of the block, in order.

        :param update: one update, always the same; returns scalar metrics
        :param block: tensors with a leading dimension of ``len(flags)``
        :param flags: per update, e.g. whether the policy is updated too
        :param optimizers: those that the update steps, by ``optimizer_step`` or ``apply_gradients``
        :param results: entries of the block (where it has them) that the updates write to
        :return: mean of each metric over the updates that reported it; of names that end in ``_max``, the largest
        """
        set_capturable(optimizers, self.cuda_graph)
        with traced_gradients(self.compile):
            if self.compile:
                for optimizer in optimizers:
                    make_traceable(optimizer)
                self._compiled = self._compiled or compile_alone(update)
                update = self._compiled
            if self.cuda_graph:
                leaves, structure = tree_flatten(block)
                key = (tuple(flags), structure, tuple(value.shape for value in leaves))
                states = [optimizer.state for optimizer in optimizers]
                if len(states) != len(self._states) or any(a is not b for a, b in zip(states, self._states)):
                    self._graphs.clear()  # loaded ones lie elsewhere
                    self._states = states
                if key not in self._graphs:
                    self._graphs[key] = CudaGraph(partial(_run_eagerly, update, flags=flags))
                metrics = self._graphs[key](block)
                for name in results:
                    if name in block:
                        block[name].copy_(self._graphs[key].inputs[0][name])
            else:
                metrics = _run_eagerly(update, block, flags=flags)
        values = th.stack(list(metrics.values())).tolist()  # the block's only host synchronisation
        return dict(zip(metrics, values, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled or captured, which works on the networks that it was made with."""
        return self.__dict__ | {"_compiled": None, "_graphs": {}, "_states": []}


def _in_precision(device: str, in_bfloat16: bool, loss_fn: Callable[..., Any], *args: Any) -> Any:
    with th.autocast(device, th.bfloat16, enabled=in_bfloat16):
        return loss_fn(*args)


def _run_eagerly(update: Update, block: Block, *, flags: Sequence[bool]) -> dict[str, th.Tensor]:
    sums: dict[str, th.Tensor] = {}
    counts: dict[str, int] = {}
    for i, flag in enumerate(flags):
        for name, value in update(_batch(block, i), flag).items():
            if name.endswith("_max"):
                sums[name] = th.maximum(sums[name], value) if name in sums else value
                counts[name] = 1
            else:
                sums[name] = sums[name] + value if name in sums else value
                counts[name] = counts.get(name, 0) + 1
    return {name: total / counts[name] for name, total in sums.items()}


def _batch(block: Block, i: int) -> Block:
    return {name: _batch(value, i) if isinstance(value, dict) else value[i] for name, value in block.items()}


class CudaGraph:
    """
    A function of tensors, or of nests of them, that is captured as a CUDA graph.

    The first call is done eagerly on a side stream, as capture requires (optimiser states and workspaces come to exist
    there); the capture itself executes nothing. Later calls copy what they are given to where the first one's inputs lay.
    Learning rates are to be tensors, so that schedules reach the graph (``set_capturable``).

    :param function: its arguments have the same shapes every time, and it asks for no number; what it returns is
        overwritten by the next call
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._graph: th.cuda.CUDAGraph | None = None
        self.inputs: tuple[Any, ...] = ()

    def __call__(self, *args: Any) -> Any:
        with th.cuda.device(tree_leaves(args)[0].device):
            return self._first(args) if self._graph is None else self.replay(args)

    def _first(self, args: tuple[Any, ...]) -> Any:
        self.inputs = tree_map(th.clone, args)  # of other strides: a compiled function must see them before the capture
        stream = th.cuda.Stream()
        stream.wait_stream(th.cuda.current_stream())
        with th.cuda.stream(stream):
            result = self._function(*self.inputs)
        th.cuda.current_stream().wait_stream(stream)
        result = tree_map(th.clone, result)
        self._graph = th.cuda.CUDAGraph()
        with th.cuda.graph(self._graph, stream=stream):
            self._outputs = self._function(*self.inputs)
        return result

    def replay(self, args: tuple[Any, ...]) -> Any:
        assert self._graph is not None
        for static, value in zip(tree_leaves(self.inputs), tree_leaves(args), strict=True):
            static.copy_(value)
        self._graph.replay()
        return self._outputs


def require_cuda(cuda_graph: bool, device: th.device) -> None:
    """:raises ValueError: if a graph is wanted where there can be none"""
    if cuda_graph and device.type != "cuda":
        raise ValueError(f"cuda_graph=True needs a CUDA device, but the model is on '{device}'.")


def set_capturable(optimizers: Sequence[th.optim.Optimizer], capturable: bool) -> None:
    """
    Let a CUDA graph contain these optimisers (step counts on the device, learning rate as a tensor), or undo it in a
    model that was trained with graphs and loaded without.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if group.get("capturable", False) == capturable:
                continue
            device = group["params"][0].device
            group["capturable"] = capturable
            group["lr"] = th.tensor(float(group["lr"]), device=device) if capturable else float(group["lr"])
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                if capturable and "step" in state:
                    state["step"] = state["step"].to(device)


def has_fast_bfloat16(device: th.device) -> bool:
    """Whether products in bfloat16 are faster than in float32: on GPUs, and on CPUs with instructions for them."""
    if device.type == "cuda":
        return th.cuda.is_bf16_supported(including_emulation=False)
    capabilities = th.cpu.get_capabilities() if hasattr(th.cpu, "get_capabilities") else {}
    return device.type == "cpu" and any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """
    Tell glibc to reuse blocks of up to 32 MiB instead of returning each to the kernel.

    An update allocates and frees activations of a few MB; by default each costs a mmap and hundreds of page faults,
    a visible part of an update's time. No effect elsewhere than on Linux with glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 512 * 2**20)
