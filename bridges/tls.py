"""TLS contexts of bridges: a server's with its certificate (and those of clients, where a CA is named), a client's."""

from __future__ import annotations

import ssl

from tunnel.config.plan import TlsPlan


def server_context(plan: TlsPlan) -> ssl.SSLContext:
    """`cert` and `key` are ours; with `ca` only clients with a certificate of it come in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(str(plan.cert), str(plan.key))
    if plan.ca is not None:
        context.load_verify_locations(plan.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(plan: TlsPlan) -> ssl.SSLContext:
    """`ca` alone is trusted where it is given, else the machine's CAs; `cert` and `key` are our own."""
    context = ssl.create_default_context(cafile=None if plan.ca is None else str(plan.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if plan.cert is not None:
        context.load_cert_chain(str(plan.cert), None if plan.key is None else str(plan.key))
    return context
