"""``list-envs``: the environments this library adds or vouches for."""

import argparse

from sb3_pgr.envs import list_env_ids


def main() -> None:
    """Print one id a line, those that contain a text if one is given."""
    parser = argparse.ArgumentParser(prog="sb3-pgr list-envs", description=__doc__)
    parser.add_argument("text", nargs="?", default="", help="print only ids that contain this")
    text = parser.parse_args().text
    for env_id in list_env_ids():
        if text.lower() in env_id.lower():
            print(env_id)
