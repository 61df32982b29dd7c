"""`python -m omniloom.recipes.geometry`: pictures with exact truth, and the small network that learns from them.

render --out DIR          shards of rendered scenes           world --out DIR    shards of the demo world
distil --out DIR FILES    shards of real pictures with a teacher's depth
train --data DIR --out CKPT        export CKPT --out FILE.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

from omniloom.recipes.geometry import files


def main() -> None:
    """Runs one of the commands."""
    parser = argparse.ArgumentParser(
        prog="python -m omniloom.recipes.geometry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    files.add_arguments(commands.add_parser("render", help="write shards of rendered scenes"))
    _world(commands.add_parser("world", help="write shards of the demo world's scenes"))
    _distil(commands.add_parser("distil", help="write shards of real pictures with a teacher's inverse depth"))
    _train(commands.add_parser("train", help="train the network for a stated time"))
    _export(commands.add_parser("export", help="write a checkpoint as an ONNX file"))
    args = parser.parse_args()
    try:
        args.run(args)
    except ValueError as error:
        parser.exit(1, f"{error}\n")


def _world(parser: argparse.ArgumentParser) -> None:
    from omniloom.recipes.geometry.world_shards import write_world

    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--count", type=int, default=8, help="shards of 64 pictures")
    parser.add_argument("--seed", type=int, default=0, help="number of the first shard")
    parser.set_defaults(run=lambda args: write_world(args.out, shards=args.count, seed=args.seed))


def _distil(parser: argparse.ArgumentParser) -> None:
    from omniloom.recipes.geometry.real import write_real

    parser.add_argument("sources", type=Path, nargs="+", help="pictures and videos whose licence allows it")
    parser.add_argument("--teacher", type=Path, required=True, help="an .onnx network of relative inverse depth")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--crops", type=int, default=2, help="of each frame; four times as many of a still")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(
        run=lambda args: write_real(args.sources, args.teacher, args.out, seed=args.seed, crops=args.crops)
    )


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of shards")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write, a .pt file")
    parser.add_argument("--start", type=Path, help="checkpoint to go on from, else ImageNet's encoder")
    parser.add_argument("--held", type=Path, help="folder of shards that are only measured")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="of learning at its highest; the encoder's: a third")
    parser.add_argument("--real-share", type=float, default=0.125, help="of a batch: real pictures with a teacher")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)

    def run(args: argparse.Namespace) -> None:
        from omniloom.recipes.geometry.learn import Plan, train

        plan = Plan(
            minutes=args.minutes, rate=args.rate, encoder_rate=args.rate / 3, real_share=args.real_share,
            threads=args.threads, seed=args.seed,
        )  # fmt: skip
        train(args.data, args.out, plan, held=args.held, start=args.start)

    parser.set_defaults(run=run)


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the .onnx file")

    def run(args: argparse.Namespace) -> None:
        from omniloom.recipes.geometry.export import export

        export(args.checkpoint, args.out)

    parser.set_defaults(run=run)


if __name__ == "__main__":
    main()
