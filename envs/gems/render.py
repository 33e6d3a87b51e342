"""What a user likes, what bores, what was shown and clicked: as text, or as a picture."""

import numpy as np
from PIL import Image, ImageDraw
from sb3_pgr.envs.gems.engine import GemsEngine

COLORS = (
    "#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#bab0ac",
    "#1b6ca8", "#a05d00", "#8c2d2d", "#2f6f6a", "#2c6326", "#8a7000",
)  # fmt: skip
WIDTH, HEIGHT, MARGIN = 640, 400, 24


def _weights(engine: GemsEngine) -> np.ndarray:
    """How much the user likes each topic ``(n_topics,)``; they sum to 1."""
    return np.linalg.norm(engine.preferences[0].reshape(engine.config.n_topics, -1), axis=1)


def as_text(engine: GemsEngine, slate: np.ndarray, clicks: np.ndarray) -> str:
    """Three lines; items that were clicked in brackets, topics that bore with an exclamation mark."""
    items = " ".join(f"[{item}]" if clicked else str(item) for item, clicked in zip(slate, clicks))
    likes = " ".join(
        f"{topic}:{weight:.2f}{'!' if bored else ''}"
        for topic, (weight, bored) in enumerate(zip(_weights(engine), engine.bored[0]))
    )
    topics = " ".join(str(topic) for topic in engine.items.topics[slate])
    return f"step {engine.step_number}  slate {items}\n  topics of the slate  {topics}\n  likes  {likes}"


def as_image(engine: GemsEngine, slate: np.ndarray, clicks: np.ndarray) -> np.ndarray:
    """``(400, 640, 3)`` uint8: bars of the user's likes (hatched where bored), the slate coloured by topic, clicks ticked."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    weights, n = _weights(engine), engine.config.n_topics
    draw.text((MARGIN, 10), f"step {engine.step_number} of {engine.config.horizon}: what the user likes", fill="black")
    step, floor, top = (WIDTH - 2 * MARGIN) / n, 230, 40
    for topic, weight in enumerate(weights):
        left = MARGIN + topic * step
        box = (left + 4, floor - (floor - top) * min(float(weight) / 0.6, 1.0), left + step - 4, floor)
        bored = engine.bored[0, topic]
        draw.rectangle(box, fill="white" if bored else COLORS[topic], outline=COLORS[topic], width=2)
        draw.text((left + step / 2 - 4, floor + 6), str(topic), fill="black")
        if bored:
            draw.text((left + 6, floor - 18), "bored", fill=COLORS[topic])
    draw.text((MARGIN, 268), f"slate, coloured by topic: {int(clicks.sum())} clicks", fill="black")
    step = (WIDTH - 2 * MARGIN) / len(slate)
    for rank, (item, clicked) in enumerate(zip(slate, clicks)):
        left = MARGIN + rank * step
        color = COLORS[engine.items.topics[item]]
        draw.rectangle((left + 4, 292, left + step - 4, 352), fill=color, outline="black" if clicked else color, width=4)
        draw.text((left + 10, 314), str(item), fill="white")
        if clicked:
            draw.text((left + step / 2 - 12, 360), "click", fill="black")
    return np.asarray(image)
