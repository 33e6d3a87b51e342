"""PPO in one page, without SB3: a rollout buffer built from shapes. Solves CartPole in less than a minute."""

import gymnasium as gym
import numpy as np
import torch as th
from torch import nn

from sb3_pgr import EpisodeStats, TensorRolloutBuffer

TOTAL, N_ENVS, N_STEPS, EPOCHS, BATCH, CLIP = 80_000, 8, 128, 8, 256, 0.2
th.manual_seed(0)
np.random.seed(0)  # shuffles the minibatches
same_step = gym.vector.AutoresetMode.SAME_STEP
envs = gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(N_ENVS)], autoreset_mode=same_step)
device = "cuda" if th.cuda.is_available() else "cpu"


def network(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)).to(device)


actor, critic = network(2), network(1)
optimizer = th.optim.Adam([*actor.parameters(), *critic.parameters()], 1e-3)
buffer = TensorRolloutBuffer.from_shapes(
    N_STEPS, (4,), (1,), action_dtype=np.int64, device=device, n_envs=N_ENVS, gamma=0.98, gae_lambda=0.9
)
stats = EpisodeStats(N_ENVS, window=20)

obs, _ = envs.reset(seed=0)
starts = np.ones(N_ENVS)
for iteration in range(1, TOTAL // (N_ENVS * N_STEPS) + 1):
    buffer.reset()
    for _ in range(N_STEPS):
        with th.no_grad():
            tensor = th.as_tensor(obs, device=device)
            policy, value = th.distributions.Categorical(logits=actor(tensor)), critic(tensor)
            action = policy.sample()
        next_obs, reward, terminated, truncated, info = envs.step(action.cpu().numpy())
        stats.step(reward, terminated, truncated)
        reward = reward.astype(np.float32)
        for i in np.flatnonzero(truncated & ~terminated):  # a time limit is no end: add the value of what would follow
            with th.no_grad():
                reward[i] += 0.98 * critic(th.as_tensor(info["final_obs"][i], device=device)).item()
        buffer.add(obs, action, reward, starts, value, policy.log_prob(action))
        obs, starts = next_obs, terminated | truncated
    with th.no_grad():
        buffer.compute_returns_and_advantage(critic(th.as_tensor(obs, device=device)), starts)

    for _ in range(EPOCHS):
        for batch in buffer.get(BATCH):
            policy = th.distributions.Categorical(logits=actor(batch.observations))
            advantage = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
            ratio = (policy.log_prob(batch.actions.flatten()) - batch.old_log_prob).exp()
            actor_loss = -th.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
            critic_loss = nn.functional.mse_loss(critic(batch.observations).flatten(), batch.returns)
            optimizer.zero_grad()
            (actor_loss + 0.5 * critic_loss).backward()
            optimizer.step()
    if iteration % 15 == 0:
        returns = stats.summary()["return"]
        steps = iteration * N_ENVS * N_STEPS
        print(f"step {steps}: return {returns['mean']:.0f} (from {returns['min']:.0f} to {returns['max']:.0f})")
