"""Where the models of a world lie, and reading them."""

import hashlib
import os
from pathlib import Path
from typing import Any, TypeVar

import torch as th
from sb3_pgr.envs.errors import ModelError
from sb3_pgr.envs.gems.belief import BeliefEncoder
from sb3_pgr.envs.gems.engine import GemsEngine
from sb3_pgr.envs.gems.slate_vae import SlateVAE

SLATE_VAE, BELIEF = "slate_vae.pt", "belief.pt"
MODELLED = ("slate_size", "click_model", "diversity_penalty")  # numbers of a world that its models are of
Model = TypeVar("Model", SlateVAE, BeliefEncoder)


def models_folder(items: str, world: str) -> Path:
    """``$SB3_PGR_MODELS`` (by default ``~/.cache/sb3_pgr``) ``/gems/<items>_<world>``."""
    home = Path(os.environ.get("SB3_PGR_MODELS") or Path.home() / ".cache" / "sb3_pgr")
    return home / "gems" / f"{items}_{world}"


def save_model(model: SlateVAE | BeliefEncoder, path: Path, engine: GemsEngine) -> None:
    """
    :param engine: of the world that it learned
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    content = {"kind": type(model).__name__, "world": _world(engine), "sizes": model.sizes, "state": model.state_dict()}
    th.save(content, temporary)
    os.replace(temporary, path)


def load_model(kind: type[Model], path: Path, engine: GemsEngine, command: str, wanted: str | None = None) -> Model:
    """
    :param kind: class of the model
    :param engine: of whose world it must be
    :param command: that builds it, for the message if it cannot be used
    :param wanted: the fingerprint that it must have
    :raises ModelError: naming the file and what is wrong with it
    """
    if not path.is_file():
        raise ModelError(f"There is no model {path}. Build it with: {command}")
    try:
        saved = th.load(path, map_location="cpu", weights_only=True)
        if saved["kind"] != kind.__name__:
            raise ModelError(f"{path} is a {saved['kind']}, not a {kind.__name__}. Build it again with: {command}")
        model, world = kind(**saved["sizes"]), dict(saved["world"])
        model.load_state_dict(saved["state"])
    except ModelError:
        raise
    except Exception as error:  # unpickling and wrong contents fail in many ways
        raise ModelError(f"{path} cannot be read ({type(error).__name__}: {error}). Build it again with: {command}") from None
    other = [f"{name} {world.get(name)}, not {value}" for name, value in _world(engine).items() if world.get(name) != value]
    if other:
        raise ModelError(f"{path} is of another world: {'; '.join(other)}. Name another folder, or build with: {command}")
    found = fingerprint(model)
    if wanted not in (None, found):
        raise ModelError(
            f"{path} is not the model that the agent or dataset was made with (fingerprint {found}, not {wanted}): actions "
            "and beliefs would mean something else. Name the folder of that model ($SB3_PGR_MODELS, models=FOLDER), or record "
            "and train again."
        )
    return model.eval()


def fingerprint(model: SlateVAE | BeliefEncoder) -> str:
    """Tells models of other weights or bounds apart."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _world(engine: GemsEngine) -> dict[str, Any]:
    return {"items": engine.items.fingerprint, **{name: getattr(engine.config, name) for name in MODELLED}}
