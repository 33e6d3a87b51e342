"""``python -m sb3_pgr.plots``, the same as ``sb3-pgr plots``."""

from sb3_pgr.__main__ import run

if __name__ == "__main__":
    run("plots")
