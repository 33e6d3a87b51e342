"""Steps of optimisers that run eagerly, or as part of a compiled update."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th

Gradients = Sequence[th.Tensor | None]


def optimizer_step(optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
    """One step down the gradient of a loss with respect to the optimiser's parameters, and no others."""
    apply_gradients(optimizer, gradients_of(optimizer, loss))


def gradients_of(optimizer: th.optim.Optimizer, loss: th.Tensor, keep_graph: bool = False) -> Gradients:
    """
    Of a loss with respect to the optimiser's parameters; None for those that it does not depend on.

    :param keep_graph: another loss shares what was computed for this one
    """
    return th.autograd.grad(loss, _parameters(optimizer), allow_unused=True, retain_graph=keep_graph)


def clipped(gradients: Gradients, max_norm: float) -> Gradients:
    """Scaled down to a common norm of at most ``max_norm``."""
    present = [gradient for gradient in gradients if gradient is not None]
    norm = th.stack([gradient.norm() for gradient in present]).norm()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return [None if gradient is None else gradient * scale for gradient in gradients]


def apply_gradients(optimizer: th.optim.Optimizer, gradients: Gradients) -> None:
    """One step along ``gradients_of`` some loss."""
    if th.compiler.is_compiling() and is_plain_adam(optimizer):
        _adam(optimizer, gradients)
        return
    for parameter, gradient in zip(_parameters(optimizer), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def set_learning_rate(optimizer: th.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of every group; in place where it is a tensor that a graph reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], th.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def is_plain_adam(optimizer: th.optim.Optimizer) -> bool:
    """Whether a compiled update knows its formula; the steps of others are taken outside of the graph."""
    if type(optimizer) is not th.optim.Adam or len(optimizer.param_groups) > 1:
        return False
    group = optimizer.param_groups[0]
    return not any(group[name] for name in ("weight_decay", "amsgrad", "maximize", "differentiable"))


def make_traceable(optimizer: th.optim.Optimizer) -> None:
    """Let the state that a compiled Adam reads exist, and its learning rate be a tensor, so that schedules reach the graph."""
    if not is_plain_adam(optimizer):
        return
    group = optimizer.param_groups[0]
    if not isinstance(group["lr"], th.Tensor):
        group["lr"] = th.tensor(float(group["lr"]), device=group["params"][0].device)
    for parameter in group["params"]:
        if not optimizer.state[parameter]:
            optimizer.state[parameter].update(
                step=th.zeros((), device=parameter.device),
                exp_avg=th.zeros_like(parameter),
                exp_avg_sq=th.zeros_like(parameter),
            )
    states = [optimizer.state[parameter] for parameter in group["params"]]
    known: Any = getattr(optimizer, "traced_state", None)
    if known is None or known["exp_avg"][0] is not states[0]["exp_avg"]:  # new, or loaded from a file
        traced = {name: [state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.traced_state = traced  # type: ignore[attr-defined]


def _parameters(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _adam(optimizer: th.optim.Optimizer, gradients: Gradients) -> None:
    """Adam (Kingma & Ba 2015, algorithm 1), on the optimiser's own state, in operations that fuse."""
    group, state = optimizer.param_groups[0], optimizer.traced_state  # type: ignore[attr-defined]
    (beta1, beta2), rate, epsilon = group["betas"], group["lr"], group["eps"]
    with th.no_grad():
        for i, (parameter, gradient) in enumerate(zip(group["params"], gradients, strict=True)):
            if gradient is None:
                continue
            step, mean, square = state["step"][i], state["exp_avg"][i], state["exp_avg_sq"][i]
            step += 1
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            deviation = square.sqrt() / (1 - beta2**step).sqrt() + epsilon
            parameter.sub_(rate / (1 - beta1**step) * mean / deviation)


@contextmanager
def traced_gradients(on: bool = True) -> Iterator[None]:
    """Let ``torch.compile`` trace ``autograd.grad``; before torch 2.12 it cannot, and compiles what lies between."""
    import torch._dynamo  # takes a second, and not all need it

    if on and hasattr(torch._dynamo.config, "trace_autograd_ops"):
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            yield
    else:
        yield


def compile_alone(function: Any) -> Any:
    """``torch.compile``, for a function of which there are many: variants are counted by code object, and may be eight."""
    # Until torch 2.12, an assertion fails where loops of fused kernels are reordered (on GPUs; CPUs have no such step).
    options: Any = {"loop_ordering_after_fusion": False}

    def call(*args: Any) -> Any:
        return function(*args)

    call.__code__ = call.__code__.replace()
    return th.compile(call, options=options)
