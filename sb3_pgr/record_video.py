"""``python -m sb3_pgr.record_video``, the same as ``sb3-pgr record_video``."""

from sb3_pgr.__main__ import run

if __name__ == "__main__":
    run("record_video")
