"""Where the models of a world lie, and reading them."""

import os
from pathlib import Path
from typing import TypeVar

import torch as th
from sb3_pgr.envs.errors import ModelError
from sb3_pgr.envs.gems.belief import BeliefEncoder
from sb3_pgr.envs.gems.engine import GemsEngine
from sb3_pgr.envs.gems.slate_vae import SlateVAE

SLATE_VAE, BELIEF = "slate_vae.pt", "belief.pt"
Model = TypeVar("Model", SlateVAE, BeliefEncoder)


def models_folder(items: str, world: str) -> Path:
    """``$SB3_PGR_MODELS`` (by default ``~/.cache/sb3_pgr``) ``/gems/<items>_<world>``."""
    home = Path(os.environ.get("SB3_PGR_MODELS") or Path.home() / ".cache" / "sb3_pgr")
    return home / "gems" / f"{items}_{world}"


def save_model(model: SlateVAE | BeliefEncoder, path: Path, fingerprint: str) -> None:
    """
    :param fingerprint: of the items
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    th.save({"kind": type(model).__name__, "items": fingerprint, "sizes": model.sizes, "state": model.state_dict()}, temporary)
    os.replace(temporary, path)


def load_model(kind: type[Model], path: Path, engine: GemsEngine, command: str) -> Model:
    """
    :param kind: class of the model
    :param engine: whose items it must be of
    :param command: that builds it, for the message if it cannot be used
    :raises ModelError: naming the file and what is wrong with it
    """
    if not path.is_file():
        raise ModelError(f"There is no model {path}. Build it with: {command}")
    try:
        saved = th.load(path, map_location="cpu", weights_only=True)
        if saved["kind"] != kind.__name__:
            raise ModelError(f"{path} is a {saved['kind']}, not a {kind.__name__}. Build it again with: {command}")
        model = kind(**saved["sizes"])
        model.load_state_dict(saved["state"])
    except ModelError:
        raise
    except Exception as error:  # unpickling and wrong contents fail in many ways
        raise ModelError(f"{path} cannot be read ({type(error).__name__}: {error}). Build it again with: {command}") from None
    if saved["items"] != engine.items.fingerprint or model.slate_size != engine.config.slate_size:
        raise ModelError(
            f"{path} is of other items or slates (items {saved['items']}, {model.slate_size} a slate) than this world (items "
            f"{engine.items.fingerprint}, {engine.config.slate_size} a slate). Build it again with: {command}"
        )
    return model.eval()
