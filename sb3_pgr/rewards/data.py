"""Images of success and failure from folders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_pgr.offline.dataset import DatasetError
from sb3_pgr.offline.pickles import read_pickle, transitions_of
from sb3_pgr.rewards.classifier import ClassifierError
from sb3_pgr.rewards.training import Images


def read_folder(folder: str | Path, image_keys: Sequence[str], success: bool) -> dict[str, Images]:
    """
    All ``.npz`` and ``.pkl`` files of a folder, one entry a file: frames of one recording belong together, and so do those of
    the file of the same name in the other folder.

    An npz holds an array ``(n, height, width, channels)`` uint8 for each camera. A pickle is a list of records with an
    ``observations`` dict, as HIL-SERL writes them; it is read by ``read_pickle``, which refuses everything but numpy arrays in
    plain containers.

    :param success: what the folder is of; ``labels`` in pickles must agree
    :return: images by camera, by name of the file
    :raises ClassifierError: if there are none, a camera is missing, images are not uint8 of one size, or labels disagree
    """
    folder = Path(folder)
    files = sorted(path for path in folder.glob("*") if path.suffix in (".npz", ".pkl"))
    if not files:
        raise ClassifierError(f"There are no .npz or .pkl files in {folder}.")
    recordings = {}
    for path in files:
        try:
            arrays = _of_npz(path) if path.suffix == ".npz" else _of_pickle(path, success)
        except DatasetError as error:
            raise ClassifierError(str(error)) from None
        missing = [key for key in image_keys if key not in arrays]
        if missing:
            raise ClassifierError(f"{path} has no images {missing}; it holds {sorted(arrays)}.")
        images = {key: arrays[key] for key in image_keys}
        for key, value in images.items():
            if value.dtype != np.uint8 or value.ndim != 4 or len(value) == 0:
                raise ClassifierError(
                    f"{path}: {key!r} must be uint8 images (n, height, width, channels), not {value.dtype} {value.shape}."
                )
        counts = {key: len(value) for key, value in images.items()}
        if len(set(counts.values())) > 1:
            raise ClassifierError(f"{path}: all cameras must have as many images; there are {counts}.")
        recordings[path.name] = images
    shapes = {part[key].shape[1:] for part in recordings.values() for key in image_keys}
    if len(shapes) > 1:
        raise ClassifierError(f"{folder} holds images of several sizes: {sorted(shapes)}.")
    return recordings


def _of_npz(path: Path) -> Images:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        raise ClassifierError(f"{path} cannot be read as an npz file of arrays: {error}") from None


def _of_pickle(path: Path, success: bool) -> Images:
    arrays = transitions_of(read_pickle(path), str(path), labels_only=True)
    observations, labels = arrays["observations"], arrays.get("labels", np.zeros(0, bool))
    wrong = int((labels != success).sum())
    if wrong:
        this, other = ("success", "failure") if success else ("failure", "success")
        raise ClassifierError(f"{path} lies in the folder of {this}, but {wrong} of its {len(labels)} labels say {other}.")
    if not isinstance(observations, dict):
        raise ClassifierError(f"{path} holds no images.")
    return observations
