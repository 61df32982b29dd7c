"""`python -m omniloom.recipes.geometry render --out DIR`: pictures with exact truth, to learn from."""

from __future__ import annotations

import argparse

from omniloom.recipes.geometry import files


def main() -> None:
    """Runs one of the commands."""
    parser = argparse.ArgumentParser(prog="python -m omniloom.recipes.geometry", description=__doc__)
    commands = parser.add_subparsers(required=True)
    files.add_arguments(commands.add_parser("render", help="write shards of rendered scenes"))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
