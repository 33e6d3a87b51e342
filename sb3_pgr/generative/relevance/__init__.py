"""Relevance functions: which transitions are worth learning from."""

import copy
from collections.abc import Mapping
from typing import Any

from sb3_pgr.generative.normalizers import chosen
from sb3_pgr.generative.relevance.base import Relevance, Transitions, checked_values
from sb3_pgr.generative.relevance.plain import Novelty, ReturnToGo, Reward, TDError, Uniform, Value
from sb3_pgr.generative.relevance.trained import RND, Curiosity, Disagreement

__all__ = ["RELEVANCE", "Curiosity", "Relevance", "ReturnToGo", "Transitions", "checked_values", "make_relevance"]

RELEVANCE: dict[str, type[Relevance]] = {
    "curiosity": Curiosity,
    "disagreement": Disagreement,
    "rnd": RND,
    "reward": Reward,
    "return": Value,
    "return_to_go": ReturnToGo,
    "td_error": TDError,
    "novelty": Novelty,
    "uniform": Uniform,
}


def make_relevance(relevance: str | dict[str, Any] | Relevance) -> Relevance:
    """
    :param relevance: a name; a mapping with ``name`` and the arguments of that class; or an instance, of which a copy is
        made, so that one may serve several buffers
    :raises ValueError: if the name is not known or the arguments do not fit
    """
    if isinstance(relevance, Relevance):
        if type(relevance).values is Relevance.values:
            raise ValueError(f"{type(relevance).__name__} must define values(transitions).")
        return copy.deepcopy(relevance)
    if not isinstance(relevance, str | Mapping):
        raise ValueError(
            f"relevance={relevance!r} must be a name, a mapping with a name, or an instance of a Relevance class."
        )
    settings = {"name": relevance} if isinstance(relevance, str) else dict(relevance)
    name = settings.pop("name", "curiosity")
    kind = chosen(RELEVANCE, name, "relevance")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"relevance {name!r}: {error}.") from None
