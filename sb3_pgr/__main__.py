"""``python -m sb3_pgr VERB`` and ``sb3-pgr VERB``."""

import difflib
import importlib
import sys

VERBS = {
    "train": "train an algorithm on an environment, or resume a run",
    "enjoy": "watch a trained agent",
    "record_video": "film a trained agent",
    "plots": "draw learning curves of runs",
    "list_envs": "print the environments",
    "benchmark": "run tasks x algorithms x seeds, and draw the table",
    "report": "write one HTML page about many runs",
    "export": "write a trained policy as one ONNX or TorchScript file",
    "diagnose": "draw what the generator of a run did at each refit",
    "collect": "record a dataset with a trained agent, or with random actions",
    "dataset": "info, check, convert or mix datasets",
    "gems": "build the models of a slate-recommender world, record datasets in it",
    "demos": "record demonstrations of a robot task, by its expert or by hand",
    "classifier": "record frames of success, train a reward classifier on them",
    "upsample": "make a larger dataset of synthetic transitions from a dataset",
}


def main() -> None:
    """Run the verb named first on the command line."""
    verb = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else ""
    if verb in ("", "_h", "__help"):
        print("usage: sb3-pgr VERB [options]\n")
        print("\n".join(f"  {name.replace('_', '-'):14}{what}" for name, what in VERBS.items()))
        print("\n`sb3-pgr VERB --help` prints the options of a verb.")
        sys.exit(0 if verb else 2)
    if verb not in VERBS:
        nearest = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean {nearest[0].replace('_', '-')}?" if nearest else ""
        sys.exit(f"sb3-pgr: there is no verb '{sys.argv[1]}'.{hint} Verbs: {', '.join(VERBS)}.".replace("_", "-"))
    del sys.argv[1]
    run(verb)


def run(verb: str) -> None:
    """Run one verb with what is left of the command line."""
    try:
        command = importlib.import_module(f"sb3_pgr.zoo.{verb}")
        errors = importlib.import_module("sb3_pgr.zoo.errors")
    except ModuleNotFoundError as error:
        if error.name not in ("rl_zoo3", "optuna", "pandas", "matplotlib", "plotly", "rliable"):
            raise
        sys.exit(f"sb3-pgr: '{verb}' needs RL Baselines3 Zoo. Install it with: pip install 'sb3_pgr[zoo]'")
    except KeyboardInterrupt:  # importing takes seconds
        sys.exit(130)
    errors.entry_point(command.main)


if __name__ == "__main__":
    main()
