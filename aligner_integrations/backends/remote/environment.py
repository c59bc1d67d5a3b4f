"""What the environment says of the way to a server: its proxy (`HTTPS_PROXY` and its like, `NO_PROXY`), and whom to trust."""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
import urllib.parse
import urllib.request
from dataclasses import dataclass, field

from aligner_integrations.backends.remote.keys import address_of, is_host, is_loopback
from aligner_integrations.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    Attributes:
        url: Scheme, host and port.
        headers: What it is told of who asks.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)


def proxy_for(scheme: str, host: str, port: int) -> Proxy | None:
    """Return the proxy for a server, or None: this machine is never reached through one.

    Raises:
        ConfigurationError: The environment names one that cannot be used. Its value is not repeated: it may hold a password.
    """
    if is_loopback(host) or _is_exempt(host, port):
        return None
    proxies = urllib.request.getproxies()
    url = proxies.get(scheme) or proxies.get("all")
    if not url:
        return None
    names = [name for kind in (scheme, "all") for name in (f"{kind}_proxy", f"{kind}_PROXY".upper())]
    name = next((name for name in names if os.environ.get(name) == url), "this system's settings")
    kind, found, _ = url.partition("://")
    kind = kind.lower() if found else ""
    if kind.startswith("socks"):
        raise ConfigurationError(
            f"{name} names a SOCKS proxy, which is not supported. Name an HTTP proxy (http://host:port), or list {host} in "
            "NO_PROXY if it can be reached without one."
        )
    try:
        parts = urllib.parse.urlsplit(url)
        proxy_host, proxy_port = parts.hostname or "", parts.port
    except ValueError:
        proxy_host, proxy_port = "", 0
    if kind not in ("http", "https") or proxy_port == 0 or not is_host(proxy_host):
        what = "has no scheme" if not kind else "has a host or a port that cannot be one"
        raise ConfigurationError(
            f"{name} names a proxy that cannot be used: it {what if kind in ('', 'http', 'https') else f'begins with {kind[:20]}://'}. "
            "It looks like http://host:port, or http://user:password@host:port."
        )
    shown = f"[{proxy_host}]" if ":" in proxy_host else proxy_host
    headers = {}
    if parts.username is not None:
        # As they are meant: what a URL cannot hold is percent-encoded in it.
        own = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(own.encode()).decode()}"
    return Proxy(f"{kind}://{shown}:{proxy_port or (443 if kind == 'https' else 80)}", headers)


def _is_exempt(host: str, port: int) -> bool:
    """Whether `NO_PROXY` names a host, one of its parents, its address with or without port, or a network it is in."""
    if urllib.request.proxy_bypass(f"{host}:{port}"):
        return True
    address = address_of(host)
    entries = os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")).split(",")
    return address is not None and any(address in network for entry in entries if (network := _network(entry.strip())))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def certificates() -> ssl.SSLContext:
    """Those that SSL_CERT_FILE and SSL_CERT_DIR name, else certifi's, else the system's."""
    file = None
    if "SSL_CERT_FILE" not in os.environ and "SSL_CERT_DIR" not in os.environ:
        try:
            import certifi
        except ImportError:
            pass
        else:
            file = certifi.where()
    context = ssl.create_default_context(cafile=file)
    context.set_alpn_protocols(["http/1.1"])
    return context
