"""``python -m sb3_pgr.train``, the same as ``sb3-pgr train``."""

from sb3_pgr.__main__ import run

if __name__ == "__main__":
    run("train")
