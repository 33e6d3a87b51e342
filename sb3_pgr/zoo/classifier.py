"""``classifier``: record frames of success and failure, train a reward classifier on them, watch it over an episode."""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sb3_pgr.common.device import choose_device
from sb3_pgr.offline.dataset import DatasetError
from sb3_pgr.offline.readers import load_dataset
from sb3_pgr.rewards.classifier import ClassifierError, RewardClassifier
from sb3_pgr.rewards.data import read_folder
from sb3_pgr.rewards.pictures import draw_judgement, draw_scores
from sb3_pgr.rewards.training import probabilities, train_classifier
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.robots import add_env_kwargs, make_task
from sb3_pgr.zoo.run_folder import require_writable


def main() -> None:
    """Run one of the verbs."""
    parser = argparse.ArgumentParser(prog="sb3-pgr classifier", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    record = verbs.add_parser("record", help="frames of success and failure, by the scripted expert")
    record.add_argument("env_id", metavar="ENV", help="robots/..._images-v0")
    record.add_argument("--episodes", type=int, default=60)
    record.add_argument("--seed", type=int, default=0)
    record.add_argument("-o", "--output", type=Path, required=True, help="folder; gets the folders success and failure")
    add_env_kwargs(record)
    train = verbs.add_parser("train", help="learn from folders of success and failure")
    train.add_argument("--success-dir", type=Path, required=True, help="folder of .npz or .pkl files")
    train.add_argument("--failure-dir", type=Path, required=True, help="folder of .npz or .pkl files")
    train.add_argument("--image-keys", nargs="+", required=True, help="cameras to look at")
    train.add_argument("--encoder", choices=["small", "resnet10"], default="small")
    train.add_argument("--steps", type=int, default=500, help="gradient steps")
    train.add_argument("--batch-size", type=int, default=128)
    train.add_argument("--threshold", type=float, help="probability from which on it is success; chosen by default")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="auto", help="cpu, cuda or mps; by default the best there is")
    train.add_argument("-o", "--output", type=Path, required=True, help="the classifier's file; pictures lie beside it")
    score = verbs.add_parser("score", help="draw its probability of success over a recorded episode")
    score.add_argument("classifier", type=Path)
    score.add_argument("demos", type=Path, help="npz with images, of sb3-pgr demos")
    score.add_argument("--episode", type=int, default=0)
    score.add_argument("-o", "--output", type=Path, required=True, help="the picture")
    args = parser.parse_args()
    try:
        {"record": _record, "train": _train, "score": _score}[args.verb](args)
    except (ClassifierError, DatasetError, ValueError) as error:
        raise UsageError(str(error)) from None


def _record(args: argparse.Namespace) -> None:
    if args.episodes < 4:
        raise UsageError("--episodes must be at least 4: recordings are held out to judge by.")
    require_writable(args.output)
    from sb3_pgr.envs.robots.recording import record_frames  # needs MuJoCo, which the other verbs do without

    env = make_task(args.env_id, **dict(args.env_kwargs))
    counts = {"failure": 0, "success": 0}
    try:
        for i in tqdm(range(args.episodes), unit=" episodes", disable=None):
            for kind, images in zip(counts, record_frames(env, args.seed + i), strict=True):
                if images:
                    folder = args.output / kind
                    folder.mkdir(parents=True, exist_ok=True)
                    np.savez_compressed(folder / f"episode_{args.seed + i:05}.npz", **images)
                    counts[kind] += len(next(iter(images.values())))
    finally:
        env.close()
    print(", ".join(f"{n:,} frames of {kind}" for kind, n in counts.items()) + f": {args.output}")


def _train(args: argparse.Namespace) -> None:
    if args.steps < 1 or args.batch_size < 2:
        raise UsageError("--steps must be at least 1 and --batch-size at least 2.")
    if args.output.suffix == ".png":
        raise UsageError(f"-o {args.output}: the picture gets this name; the classifier's ends in .pt.")
    require_writable(args.output.parent)
    success, failure = (
        read_folder(folder, args.image_keys, kind) for kind, folder in ((True, args.success_dir), (False, args.failure_dir))
    )
    with tqdm(total=args.steps, unit=" steps", disable=None) as bar:

        def progress(step: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}")
            bar.update(1)

        classifier, judgement = train_classifier(
            success,
            failure,
            args.steps,
            args.batch_size,
            threshold=args.threshold,
            image_encoder=args.encoder,
            seed=args.seed,
            device=choose_device(args.device),
            on_step=progress,
        )
    classifier.save(args.output)
    draw_judgement(judgement, args.output.with_suffix(".png"))
    n_failure, n_success = judgement.confusion.sum(1)
    print(f"Held out: {n_success:,} frames of success and {n_failure:,} of failure, from recordings it has not learned from.")
    print(f"Accuracy {judgement.accuracy:.1%} (mean of both kinds), false positives {judgement.false_positive_rate:.1%}")
    print(f"Threshold {classifier.threshold:.2f}. Written: {args.output}, {args.output.with_suffix('.png')}")


def _score(args: argparse.Namespace) -> None:
    classifier, dataset = RewardClassifier.load(args.classifier), load_dataset(args.demos)
    n = len(dataset.episode_ends)
    if not 0 <= args.episode < n:
        raise UsageError(f"--episode {args.episode}: {args.demos} has {n} episodes, counted from 0.")
    if not isinstance(dataset.observations, dict):
        raise UsageError(f"{args.demos} holds no images.")
    episode = dataset.select_episodes(np.array([args.episode]))
    scores = probabilities(classifier, {key: value for key, value in episode.next_observations.items()})
    require_writable(args.output.parent)
    draw_scores(scores, episode.rewards, episode.next_observations, classifier, args.output)
    print(f"Highest probability {scores.max():.2f}, threshold {classifier.threshold:.2f}: {args.output}")
