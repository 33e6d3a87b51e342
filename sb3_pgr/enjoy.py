"""``python -m sb3_pgr.enjoy``, the same as ``sb3-pgr enjoy``."""

from sb3_pgr.__main__ import run

if __name__ == "__main__":
    run("enjoy")
