"""The page collector: outside hosts that the root page links to, and where a redirect leads."""

from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from spyder.model.names import BadName, apex, normalise_host
from spyder.net.html import link_hosts
from spyder.net.http import Response

_MAX_LOCATION_CHARACTERS = 8192
_PATH_CHARACTERS = "/:@!$&'()*+,;=~-._%"  # RFC 3986, section 3.3; what is escaped stays so
_QUERY_CHARACTERS = _PATH_CHARACTERS + "?"


@dataclass(frozen=True, slots=True)
class Target:
    """What a redirect leads to."""

    scheme: str
    host: str
    port: int | None
    """None where the URL names none."""
    path: str
    """Path and query, ASCII, beginning with a slash."""

    @property
    def url(self) -> str:
        """The URL, without its port."""
        return f"{self.scheme}://{self.host}{self.path}"


def is_html(response: Response) -> bool:
    """Tell whether an answer says that it is HTML (RFC 9110, section 8.3)."""
    return response.content_type.partition(";")[0].strip().lower() == "text/html"


def outside_hosts(response: Response, *, host: str, page_url: str) -> list[str]:
    """Return the hosts that a page links to and whose registrable domain is not that of `host`."""
    own = apex(host)
    linked = link_hosts(response.body, page_url=page_url, content_type=response.content_type or None)
    return [name for name in linked if apex(name) != own]


def redirect_target(response: Response, base_url: str) -> Target | None:
    """Return where a 3xx answer leads; None where it is no redirect, or not to an http or https host."""
    location = response.headers.get("location", "")
    if not 300 <= response.status < 400 or response.status == 304 or not location:
        return None
    if len(location) > _MAX_LOCATION_CHARACTERS:
        return None
    try:
        # servers send UTF-8 where RFC 9110 (10.2.2) wants escapes
        text = location.encode("latin-1").decode("utf-8", "replace").strip()
        parts = urlsplit(urljoin(base_url, text))
        if parts.scheme not in ("http", "https"):
            return None
        host, port = normalise_host(parts.hostname or ""), parts.port
    except (BadName, ValueError):
        return None
    path = quote(parts.path or "/", safe=_PATH_CHARACTERS)
    query = "?" + quote(parts.query, safe=_QUERY_CHARACTERS) if parts.query else ""
    return Target(parts.scheme, host, port, path + query)
