"""What the programs' exit statuses mean; one list for all of them."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit statuses of spyderd and spyderctl."""

    DONE = 0
    WORK_REMAINS = 1
    """Something failed, or is left to do."""
    USAGE = 2
    """The command line is wrong."""
    BAD_SETTINGS = 78
    """The settings are wrong (EX_CONFIG of sysexits.h)."""
