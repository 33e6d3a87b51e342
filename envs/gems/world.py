"""The six published worlds by name."""

from dataclasses import fields
from functools import lru_cache
from typing import Any

from sb3_pgr.envs.gems.engine import GemsConfig, GemsEngine
from sb3_pgr.envs.gems.items import Items, draw_items

ITEM_SEEDS = {"focused": 0, "diffuse": 1}
WORLDS: dict[str, dict[str, Any]] = {
    "topdown": {},
    "mix": {"click_model": "mixed"},
    "divpen": {"click_model": "mixed", "diversity_penalty": 3.0},
}


def make_engine(items: str | Items, world: str, **changes: Any) -> GemsEngine:
    """
    :param items: ``"focused"``, ``"diffuse"``, or a catalogue
    :param world: ``"topdown"``, ``"mix"`` or ``"divpen"``
    :param changes: numbers of ``GemsConfig`` that are to differ; a named catalogue is drawn with their topics
    :raises ValueError: if a name is not known
    """
    if world not in WORLDS:
        raise ValueError(f"world={world!r} must be one of {', '.join(WORLDS)}.")
    if isinstance(items, str) and items not in ITEM_SEEDS:
        raise ValueError(f"items={items!r} must be one of {', '.join(ITEM_SEEDS)}, or Items.")
    unknown = changes.keys() - {field.name for field in fields(GemsConfig)}
    if unknown:
        raise ValueError(f"GemsConfig has no {', '.join(sorted(unknown))}; see its documentation for what can be changed.")
    config = GemsConfig(**WORLDS[world] | changes)
    return GemsEngine(_catalogue(items, config.n_topics, config.topic_size) if isinstance(items, str) else items, config)


@lru_cache
def _catalogue(kind: str, n_topics: int, topic_size: int) -> Items:
    return draw_items(n_topics=n_topics, topic_size=topic_size, seed=ITEM_SEEDS[kind])
