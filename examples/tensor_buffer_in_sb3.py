"""Plain SB3 with its replay memory on torch tensors: one line changed, same result for the same seed."""

from stable_baselines3 import SAC

from sb3_pgr import TensorReplayBuffer

model = SAC("MlpPolicy", "Pendulum-v1", replay_buffer_class=TensorReplayBuffer, seed=0, verbose=1)
model.learn(2_000)
