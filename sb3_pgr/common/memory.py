"""How much memory there is."""

import os

import torch as th


def total_memory(device: th.device | str) -> int | None:
    """Bytes of a device, or of the machine; None where the system does not tell."""
    device = th.device(device)
    if device.type == "cuda":
        return th.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
