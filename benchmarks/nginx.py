"""A real nginx on a free port of loopback that lets no WebSocket through: what makes a link take to long-poll."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from benchmarks.process import MeasureError, Process, wait_for_port
from demo.ports import free_ports

CONFIG = """daemon off; pid {home}/pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 1m; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  upstream there {{ server 127.0.0.1:{to}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://there; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


@cache
def program() -> str | None:
    """nginx, which is not in everybody's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")


@contextmanager
def no_upgrades(folder: Path, to: int) -> Iterator[int]:
    """Its port, for the length of the context."""
    nginx = program()
    if nginx is None:
        raise MeasureError("nginx is not installed (apt-get install nginx-light)")
    (port,) = free_ports(1)
    home = folder / f"nginx-{port}"
    home.mkdir()
    (home / "conf").write_text(CONFIG.format(home=home, port=port, to=to))
    with Process("nginx", [nginx, "-p", str(home), "-e", "stderr", "-c", str(home / "conf")], folder) as server:
        wait_for_port(port)
        yield port
        server.end(gently_s=3.0)  # its workers too
