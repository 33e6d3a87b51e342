"""Tuned hyper-parameters in RL Baselines3 Zoo format, one file an algorithm."""
