"""Where grippers stand in an action, and their commands as classes: close, stay, open."""

import torch as th

SETUP_MODES = (
    "single-arm-fixed-gripper",
    "single-arm-learned-gripper",
    "dual-arm-fixed-gripper",
    "dual-arm-learned-gripper",
)


def gripper_indices(setup_mode: str, action_dim: int) -> tuple[int, ...]:
    """
    Which entries of an action are learned grippers: the last of each arm (HIL-SERL: 6 of 7, 6 and 13 of 14).

    :param setup_mode: one of ``SETUP_MODES``
    :param action_dim: entries of an action, over all arms
    :raises ValueError: on an unknown mode, or if the action cannot be divided so
    """
    if setup_mode not in SETUP_MODES:
        raise ValueError(f"setup_mode={setup_mode!r} is not known; choose one of {', '.join(SETUP_MODES)}.")
    n_arms = 2 if setup_mode.startswith("dual") else 1
    learned = "learned" in setup_mode
    if action_dim % n_arms or action_dim // n_arms < 1 + learned:
        per_arm = "at least one entry and a gripper" if learned else "at least one entry"
        raise ValueError(
            f"setup_mode={setup_mode!r} wants {per_arm} for each of {n_arms} arms, but actions have {action_dim}."
        )
    per_arm_dim = action_dim // n_arms
    return tuple((arm + 1) * per_arm_dim - 1 for arm in range(n_arms)) if learned else ()


def to_classes(values: th.Tensor) -> th.Tensor:
    """
    Commands to one joint class, ``sum of c_i 3^(n-1-i)`` with c = 0 close, 1 stay, 2 open. What lies nearer to 0 than a half
    is to stay: people's commands lie at 0.9 to 1, not at 1.

    :param values: in [-1, 1], ``(..., n_grippers)``
    :return: int64 ``(...)``
    """
    classes = 1 + (values >= 0.5).long() - (values <= -0.5).long()
    joint = classes[..., 0]
    for i in range(1, classes.shape[-1]):
        joint = 3 * joint + classes[..., i]
    return joint


def to_values(classes: th.Tensor, n_grippers: int) -> th.Tensor:
    """
    The commands of joint classes, the inverse of ``to_classes``.

    :param classes: ``(...)``
    :return: -1, 0 or 1, float32 ``(..., n_grippers)``
    """
    powers = 3 ** th.arange(n_grippers - 1, -1, -1, device=classes.device)
    return (classes.unsqueeze(-1) // powers % 3 - 1).float()
