"""Which policies an algorithm can work with."""

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy


def require_policy(model: BaseAlgorithm, base: type[BasePolicy]) -> None:
    """
    :param model: with its ``policy_class``: given, or read from a file
    :param base: what the algorithm's policies derive from
    :raises ValueError: if it is another, as in the file of another algorithm
    """
    if not issubclass(model.policy_class, base):
        raise ValueError(
            f"{type(model).__name__} works with a {base.__name__}, not with a {model.policy_class.__name__}. A saved model is "
            "loaded by the algorithm that it was saved by."
        )
