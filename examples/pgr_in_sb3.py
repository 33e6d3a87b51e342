"""A plain SB3 script that learns from imagined transitions too: the import and one argument are what was added."""

from stable_baselines3 import SAC

from sb3_pgr import GenerativeReplayBuffer

model = SAC(
    "MlpPolicy",
    "HalfCheetah-v5",
    replay_buffer_class=GenerativeReplayBuffer,
    verbose=1,
)
model.learn(total_timesteps=20_000)
model.save("halfcheetah")
