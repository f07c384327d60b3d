"""`spyderctl`: everything that a person does."""

import click

from spyder import __version__
from spyder.cli.lazy_group import LazyGroup

_COMMANDS = {
    "probe": ("spyder.cli.probe:probe", "Probe hosts now and print what they are tied to."),
    "replay-spool": ("spyder.cli.replay_spool:replay_spool", "Send what is spooled, now."),
    "spool": ("spyder.cli.spool:spool", "Look at the spool, and act on its batches."),
    "receive": ("spyder.cli.receive:receive", "Take batches over HTTP and keep them: a small ingest service."),
    "lab": ("spyder.cli.lab:lab", "Run the simulated network that ships with spyder."),
    "config": ("spyder.cli.config:config", "Check and show settings."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="spyderctl")
def main() -> None:
    """Map what host names are tied to: addresses, name servers, mail servers, certificates, links.

    Results go to standard output, everything else to standard error. Exit status: 0 done, 1 work remains or
    failed, 2 wrong usage, 78 bad configuration.
    """
