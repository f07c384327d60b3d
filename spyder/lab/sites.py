"""The sites of a lab: pure data, the same for the same count and seed.

Owned by no thread. A site depends on the seed, its number and its trait; its links on the count as well.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from spyder.lab.pages import REAL_PAGES_APEX, real_pages
from spyder.lab.records import Name, Site
from spyder.lab.traits import TRAITS, Draft, Trait

HEALTHY_SHARE = 0.6  # of the sites; the rest goes round the other traits
NEIGHBOURS = 3  # other sites that a page links to
REAL_PAGE = "real_page"
"""The trait of the sites that serve real pages."""
_REAL_PAGES_ZONE = Name(ns=("ns1.nic0.test", "ns2.nic0.test"))  # one for all sites: they share the apex


def make_sites(count: int, seed: int, traits: Sequence[str] = ()) -> list[Site]:
    """Return `count` sites.

    Most are healthy, and the other traits are shared out evenly: from 250 sites on there is one of each. Where
    `traits` are given, all sites are shared out evenly among these. Raises `KeyError` for an unknown trait.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable, no secret
    kinds = [TRAITS[name] for name in traits] if traits else list(TRAITS.values())
    healthy = 0 if traits else round(count * HEALTHY_SHARE)
    odd = [kind for kind in kinds if traits or kind.name != "healthy"]
    if not traits:
        rng.shuffle(odd)
    mix = [TRAITS["healthy"]] * healthy + [odd[i % len(odd)] for i in range(count - healthy)]
    rng.shuffle(mix)
    numbers = [f"{index:04d}" for index in range(count)]
    hosts = [kind.host_of(number) for kind, number in zip(mix, numbers, strict=True)]
    return [_make(kind, number, seed, hosts) for kind, number in zip(mix, numbers, strict=True)]


def _make(kind: Trait, number: str, seed: int, hosts: Sequence[str]) -> Site:
    rng = random.Random(f"{seed}/{number}")  # noqa: S311 - repeatable, no secret
    picked = rng.sample(hosts, min(len(hosts), NEIGHBOURS + 1))
    own = kind.host_of(number)
    return kind.make(number, rng, [host for host in picked if host != own][:NEIGHBOURS])


def real_page_sites(folder: Path, seed: int) -> list[Site]:
    """Return a site for each real page of a folder (see `pages.real_pages`).

    The pages share one `page_url`, and 35 sites cannot share one host. So `NAME` is served as
    `NAME.page-under-test.com`: under the registrable domain of that URL, relative links and links to its own
    host are inside, as they were, and the outside hosts are those that the folder expects.
    """
    sites = []
    for page in real_pages(folder):
        rng = random.Random(f"{seed}/{page.name}")  # noqa: S311 - repeatable, no secret
        draft = Draft(f"page-{page.name}", REAL_PAGES_APEX, f"{page.name}.{REAL_PAGES_APEX}", rng, ())
        draft.names[REAL_PAGES_APEX] = _REAL_PAGES_ZONE
        draft.page, draft.links = page.response, page.links
        sites.append(draft.finish(REAL_PAGE))
    return sites
