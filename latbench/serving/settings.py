"""How a run is served; read without starlette and uvicorn, which only a server needs."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How a run is served."""

    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8000
    """Of it; 0: any that is free."""
    api_key: str | None = None
    """That requests must bring; None: none."""
    max_queue: int = 256
    """Answers that may wait beside those in the batch."""
    max_tokens: int = 4096
    """Most emitted tokens that a request may ask for."""
    name: str | None = None
    """Of the model, for clients; None: the run's own."""
    grace: float = 30.0
    """Seconds that answers have to be completed after a signal to stop."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at that address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
