"""`spyderctl lab`: the simulated network, for trying things without the internet."""

import asyncio
from pathlib import Path

import click


@click.command()
@click.option("--sites", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Number of sites.")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where to write files."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same sites.")
@click.option(
    "--pages",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of real pages to serve as sites too; its form: docs/lab.md.",
)
def lab(sites: int, directory: Path, seed: int, pages: Path | None) -> None:
    """Serve a simulated internet on loopback until Ctrl-C: DNS, HTTP and HTTPS, with a CA of its own.

    Writes settings that point at it (spyder.yaml), its hosts (hosts.txt), and the graph that a probe must
    find (expected.json) into the directory. `spyderctl probe --lab` does all of it in one go.
    """
    try:
        from spyder.lab.network import serve
    except ImportError as error:
        raise click.ClickException(f"needs the extra 'lab': pip install 'spyder-probe[lab]' ({error})") from None
    directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(directory, sites=sites, seed=seed, pages=pages))
