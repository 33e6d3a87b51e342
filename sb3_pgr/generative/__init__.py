"""A conditional diffusion model of transitions, relevance functions, and the replay buffer made of them."""

from sb3_pgr.generative.callback import GenerativeReplayCallback
from sb3_pgr.generative.config import GeneratorConfig
from sb3_pgr.generative.generator import GeneratorDivergedError, TransitionGenerator
from sb3_pgr.generative.imagination import Imagination, RefitReport
from sb3_pgr.generative.relevance import RELEVANCE, Relevance
from sb3_pgr.generative.replay import GenerativeReplayBuffer

__all__ = [
    "RELEVANCE",
    "GenerativeReplayBuffer",
    "GenerativeReplayCallback",
    "GeneratorConfig",
    "GeneratorDivergedError",
    "Imagination",
    "RefitReport",
    "Relevance",
    "TransitionGenerator",
]
