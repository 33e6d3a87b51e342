"""A thin layer over RL Baselines3 Zoo: our algorithms, our configs, exact resume and videos."""
