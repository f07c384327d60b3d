"""The simulated network: real DNS, HTTP and HTTPS servers on loopback, and the graph that must come out of them.

Beside the path, not on it: the probe is pointed at it by settings alone (name server, ports, certificate authority),
so what runs over it is what runs on the internet. It ships in the package, for newcomers without a network
(`python -m spyder.lab serve`) and for those who test plug-ins of their own:

    with Lab(directory, sites=250, seed=1) as lab:
        ...  # probe lab.hosts with lab.settings_path, compare with lab.expected, count with lab.counters()

What is expected is declared with the sites (`traits`) and derived from their data (`records.edges`); nothing of
the probe is imported, so the two can only agree by being right.
"""

from spyder.lab.network import Expected, Lab

__all__ = ["Expected", "Lab"]
