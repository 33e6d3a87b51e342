"""A conditional diffusion model of transitions. It knows nothing of Stable-Baselines3."""

from sb3_pgr.generative.generator import GeneratorConfig, GeneratorDivergedError, TransitionGenerator

__all__ = ["GeneratorConfig", "GeneratorDivergedError", "TransitionGenerator"]
