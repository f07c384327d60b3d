"""`python -m spyder.lab serve`: the simulated network as a command, until SIGTERM or Ctrl-C."""

import argparse
import asyncio
from pathlib import Path

from spyder.lab.network import serve
from spyder.lab.traits import TRAITS


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m spyder.lab", description="The simulated network of spyder.")
    command = parser.add_subparsers(required=True, metavar="serve").add_parser("serve", help="serve until stopped")
    command.add_argument("--sites", type=int, default=250, metavar="N", help="number of sites (default: 250)")
    command.add_argument("--dir", type=Path, required=True, help="where settings, hosts and expectations are written")
    command.add_argument("--seed", type=int, default=1, help="the same seed makes the same sites (default: 1)")
    command.add_argument("--pages", type=Path, help="a folder of real pages, to be served as sites too")
    command.add_argument(
        "--trait",
        action="append",
        default=[],
        choices=TRAITS,
        metavar="TRAIT",
        help="only this kind of site; repeatable",
    )
    command.add_argument("--with-parent", action="store_true", help="stop also when standard input ends")
    given = parser.parse_args()
    given.dir.mkdir(parents=True, exist_ok=True)
    asyncio.run(
        serve(
            given.dir,
            sites=given.sites,
            seed=given.seed,
            traits=given.trait,
            pages=given.pages,
            with_parent=given.with_parent,
        )
    )


if __name__ == "__main__":
    main()
