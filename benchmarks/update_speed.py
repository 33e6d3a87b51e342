"""
Time of one gradient update of SAC-like agents with 10 critics, and of one environment step with 20 updates.

    python benchmarks/update_speed.py                 # CPU, all agents that are installed
    python benchmarks/update_speed.py --device cuda   # adds the captured CUDA graph

Observation 17, action 6, batch 256, two hidden layers of 256, 10 critics, 20 updates per environment step (HalfCheetah-v5).
Agents take turns, block by block, in processes of their own, so that the machine's moods hit all of them alike. Reported
are medians over blocks, as milliseconds and as ratios to SBX. ``sbx-rl`` may live in another environment: name its
python with --sbx-python. SB3's SAC updates the actor and the target every time, ours and SBX's the actor at every 20th.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

UPDATES = 20  # per environment step, and per timed block
RESULT = Path(__file__).parent / "results" / "update_speed"

OURS = {
    "sb3_pgr REDQ fp32 (default)": dict(),
    "sb3_pgr REDQ fp32 compiled": dict(compile=True),
    "sb3_pgr REDQ bf16": dict(precision="bf16"),
    "sb3_pgr REDQ bf16 compiled": dict(precision="bf16", compile=True),
}
ON_CUDA = {
    "sb3_pgr REDQ fp32 graph": dict(cuda_graph=True),
    "sb3_pgr REDQ bf16 graph": dict(precision="bf16", cuda_graph=True),
    "sb3_pgr REDQ bf16 compiled graph": dict(precision="bf16", compile=True, cuda_graph=True),
}
SB3, SBX = "SB3 SAC", "SBX SAC"


def build(name: str, device: str):
    env, common = "HalfCheetah-v5", dict(learning_starts=300, gradient_steps=UPDATES, buffer_size=100_000, seed=0)
    if name == SB3:
        from stable_baselines3 import SAC

        return SAC("MlpPolicy", env, policy_kwargs=dict(n_critics=10), device=device, **common)
    if name == SBX:
        from sbx import SAC

        return SAC("MlpPolicy", env, policy_kwargs=dict(n_critics=10, net_arch=[256, 256]), policy_delay=UPDATES, **common)
    from sb3_pgr import REDQ

    return REDQ("MlpPolicy", env, device=device, **(OURS | ON_CUDA)[name], **common)


def serve(name: str, device: str) -> None:
    """Child process: at each line from the parent, time one block of updates, or some environment steps with theirs."""
    model = build(name, device)
    model.learn(310)

    def finish() -> None:
        if name == SBX:
            import jax

            jax.block_until_ready(model.policy.qf_state.params)
        elif device == "cuda":
            import torch as th

            th.cuda.synchronize()

    print("ready", flush=True)
    for line in sys.stdin:
        finish()
        started = time.perf_counter()
        if line.strip() == "update":
            model.train(UPDATES, 256)
            count = UPDATES
        else:
            count = int(line.removeprefix("step"))
            model.learn(count, reset_num_timesteps=False, log_interval=None)
        finish()
        print((time.perf_counter() - started) / count * 1e3, flush=True)


class Agent:
    def __init__(self, name: str, python: str, device: str):
        command = [python, __file__, "--serve", name, "--device", device]
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.times: dict[str, list[float]] = {"update": [], "step": []}

    def warm(self) -> bool:
        """Wait until it is; False if it ended instead."""
        while (line := self.process.stdout.readline()) and line.strip() != "ready":
            pass
        return bool(line)

    def measure(self, what: str, env_steps: int) -> None:
        self.process.stdin.write(f"step {env_steps}\n" if what == "step" else "update\n")
        self.process.stdin.flush()
        self.times[what].append(float(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def sbx_versions(python: str) -> dict[str, str]:
    code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('sbx-rl', 'jax')}))"
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def main(args: argparse.Namespace) -> None:
    from provenance import provenance

    names = args.agents or [SBX, SB3, *OURS, *(ON_CUDA if args.device == "cuda" else {})]
    agents = []
    for agent in [Agent(name, args.sbx_python if name == SBX else sys.executable, args.device) for name in names]:
        if agent.warm():
            agents.append(agent)
        else:
            print(f"{agent.name} left out: {agent.process.stderr.read().strip().splitlines()[-1]}")
    for what, rounds in (("update", args.rounds), ("step", max(args.rounds // 4, 3))):
        for i in range(rounds + 2):
            for agent in agents:
                agent.measure(what, args.env_steps)
                if i < 2:
                    agent.times[what].clear()  # warm-up
    rows = []
    for agent in agents:
        update, step = (statistics.median(agent.times[what]) for what in ("update", "step"))
        rows.append({"agent": agent.name, "ms_per_update": round(update, 2), "ms_per_env_step": round(step, 1)})
        agent.close()
    reference = {row["agent"]: row for row in rows}
    for row in rows:
        for other, column in ((SBX, "update_time_vs_sbx"), (SB3, "update_time_vs_sb3")):
            if other in reference:
                row[column] = round(row["ms_per_update"] / reference[other]["ms_per_update"], 2)
    print(f"| agent | {' | '.join(list(rows[0])[1:])} |")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    RESULT.parent.mkdir(exist_ok=True)
    path = RESULT.with_name(f"update_speed_{args.device}.json")
    origin = provenance((0,))
    if SBX in reference:
        origin["versions"] |= sbx_versions(args.sbx_python)
    path.write_text(json.dumps({"provenance": origin, "rounds": args.rounds, "rows": rows}, indent=2) + "\n")
    print(f"Written to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--agents", nargs="+", choices=[SBX, SB3, *OURS, *ON_CUDA], help="default: all")
    parser.add_argument("--rounds", type=int, default=40, help="timed blocks of 20 updates for each agent")
    parser.add_argument("--env-steps", type=int, default=20, help="of a timed block of environment steps")
    parser.add_argument("--sbx-python", default=sys.executable, help="python that has sbx-rl")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.device)
    else:
        main(arguments)
