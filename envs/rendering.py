"""Off-screen rendering on machines without a display."""

import ctypes
import os
import sys

ADVICE = "sudo apt-get install libegl1 libgl1 libgl1-mesa-dri"


def choose_renderer() -> None:
    """
    Point MuJoCo at an off-screen renderer, EGL or else OSMesa, where there is no screen and ``MUJOCO_GL`` is unset.
    It has to happen before ``mujoco`` is imported.
    """
    if sys.platform != "linux" or "MUJOCO_GL" in os.environ:
        return
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return
    backend = headless_backend()
    if backend is not None:
        os.environ["MUJOCO_GL"] = backend


def headless_backend() -> str | None:
    """``"egl"``, ``"osmesa"``, or None where neither library is installed."""
    for backend, library in (("egl", "libEGL.so.1"), ("osmesa", "libOSMesa.so.8")):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return backend
    return None


def require_renderer() -> None:
    """
    :raises RuntimeError: if this machine has neither a screen nor an off-screen renderer, with what to install
    """
    has_screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not has_screen and headless_backend() is None:
        raise RuntimeError(f"Rendering needs a screen, EGL or OSMesa, and this machine has none. Install EGL with: {ADVICE}")
