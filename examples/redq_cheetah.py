"""REDQ on DeepMind Control, stoppable at any time and resumed from its last checkpoint when started again."""

from sb3_pgr import REDQ
from sb3_pgr.common.callbacks import ResumableCheckpoint
from sb3_pgr.common.checkpoint import latest_checkpoint

TOTAL = 20_000

model = REDQ("MlpPolicy", "dmc/cheetah-run-v0", precision="bf16", seed=0, verbose=1)
last = latest_checkpoint("checkpoints")
checkpoint = ResumableCheckpoint("checkpoints", save_freq=5_000, resume_from=last)
if last is not None:
    checkpoint.restore(model)
    print(f"Continuing from step {model.num_timesteps}")
model.learn(TOTAL - model.num_timesteps, callback=checkpoint, reset_num_timesteps=last is None, progress_bar=True)
model.save("cheetah")
