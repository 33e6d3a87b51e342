"""Double DQN in one page, without SB3: prioritized replay built from shapes. Solves CartPole in less than a minute."""

import gymnasium as gym
import numpy as np
import torch as th
from torch import nn

from sb3_pgr import PrioritizedReplayBuffer

TOTAL, BATCH, GAMMA, N_STEPS = 15_000, 128, 0.99, 3
th.manual_seed(0)
rng = np.random.default_rng(0)
env = gym.make("CartPole-v1")
device = "cuda" if th.cuda.is_available() else "cpu"


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2)).to(device)


q, q_target = network(), network()
q_target.load_state_dict(q.state_dict())
optimizer = th.optim.Adam(q.parameters(), 5e-4)
buffer = PrioritizedReplayBuffer.from_shapes(
    50_000, (4,), (1,), action_dtype=np.int64, device=device, n_steps=N_STEPS, gamma=GAMMA, beta=(0.4, 1.0, TOTAL)
)

obs, _ = env.reset(seed=0)
returns, running = [], 0.0
for step in range(1, TOTAL + 1):
    if rng.random() < max(0.05, 1 - step / 3_000):
        action = int(rng.integers(2))
    else:
        action = int(q(th.as_tensor(obs, device=device)).argmax())
    next_obs, reward, terminated, truncated, _ = env.step(action)
    done = terminated or truncated
    # One environment: a first axis of 1. A time limit ends the episode, but its last value still counts.
    buffer.add(obs[None], next_obs[None], np.array([[action]]), [reward], [done], timeouts=[truncated and not terminated])
    running += float(reward)
    obs = next_obs
    if done:
        returns.append(running)
        obs, running = env.reset()[0], 0.0

    if step >= 1_000 and step % 2 == 0:
        batch = buffer.sample(BATCH)
        with th.no_grad():
            best = q(batch.next_observations).argmax(1, keepdim=True)
            next_value = q_target(batch.next_observations).gather(1, best)
            target = batch.rewards + (1 - batch.dones) * batch.discounts * next_value
        error = q(batch.observations).gather(1, batch.actions) - target
        loss = (batch.weights * nn.functional.huber_loss(error, th.zeros_like(error), reduction="none")).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        buffer.update_priorities(batch.indices, error.abs())
        with th.no_grad():
            for target_parameter, parameter in zip(q_target.parameters(), q.parameters(), strict=True):
                target_parameter.lerp_(parameter, 0.01)
    if step % 3_000 == 0:
        print(f"step {step}: mean return of the last 10 episodes {np.mean(returns[-10:]):.0f}")
