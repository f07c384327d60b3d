"""Which hosts are left alone: excluded top-level domains.

The excluded suffixes are matched label by label: `gov` covers `gov` itself and `x.gov`, and `gov.uk` covers
`x.gov.uk` but not `xgov.uk`.
"""

from collections.abc import Iterable

from spyder.model.outcomes import Status


class Scope:
    """Decides by name alone. Immutable; a reload makes a new one."""

    def __init__(self, exclude_tlds: Iterable[str]) -> None:
        self._excluded = frozenset(tld.strip().strip(".").lower() for tld in exclude_tlds) - {""}

    def verdict(self, host: str) -> Status:
        """Return `ok` or `excluded_tld` for a host of lower-case A-labels."""
        suffix = host
        while suffix:
            if suffix in self._excluded:
                return Status.EXCLUDED_TLD
            _, _, suffix = suffix.partition(".")
        return Status.OK
