"""The socket options of a local end: set once at birth, or before each bind and each connect. Knows pyzmq only.

libzmq copies most options at bind and connect, so what belongs to one method (server or client side of a mechanism, the
ZAP domain, IPv6) is set right before it.

No ZMTP heartbeats unless the table asks: a peer that does not read for a while, or our own end that does not because
the link is full, answers no ping, and libzmq then drops the connection with all it holds (measured, 4.3.5: 196 of 260
messages lost to a consumer that paused for 4 s, 524 of 740 from a producer that was held back). TCP keepalive has no
such effect.
"""

from __future__ import annotations

from typing import Final

import zmq

from tunnel.config.plan import EndPlan, RoutePlan
from tunnel.limits import (
    EXIT_HWM,
    HANDSHAKE_S,
    HEARTBEAT_TIMEOUTS,
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_INTERVAL_S,
    LOCAL_CONNECT_S,
    LOCAL_HWM,
    MAX_MESSAGE_BYTES,
    RECONNECT_MAX_S,
    RECONNECT_MIN_S,
)
from tunnel.reactor import LOCAL_AFFINITY

ZmqSocket = zmq.Socket[bytes]

_MEMORY_GUARD: Final = 2


def max_frame_bytes(max_message_bytes: int) -> int:
    """MAXMSGSIZE: twice `max_message`, and never less than any route takes by default.

    The pump refuses exactly, counts and tells. libzmq only keeps a frame from eating all memory: it ends the connection
    over it and says nothing, so that nobody could be told; hence the distance.
    """
    return max(max_message_bytes * _MEMORY_GUARD, MAX_MESSAGE_BYTES)


def zap_domain(route: str) -> str:
    return f"route:{route}"


def outward_domain(route: str) -> str:
    """For the connects of an end that also binds: NULL asks ZAP there too, about the address that the table names."""
    return f"outward:{route}"


def is_mixed(end: EndPlan) -> bool:
    """Does the end both bind and connect?"""
    return len({endpoint.method for endpoint in end.endpoints}) > 1


def mechanism(end: EndPlan) -> str:
    """NULL, PLAIN or CURVE."""
    return "CURVE" if end.curve is not None else "PLAIN" if end.plain is not None else "NULL"


def high_water_marks(end: EndPlan) -> tuple[int, int]:
    """(SNDHWM, RCVHWM). What leaves towards applications is short, for it dies with them; an XSUB sends subscriptions
    only, which obey the mark too and would be lost for good (libzmq #4063).

    Set once, before anybody connects. A mark that is changed later, narrowed or widened, can stop a connection for
    ever: the reader of libzmq's pipe tells its writer how far it is only every (mark + 1) / 2 messages, and a writer
    that was full, or is full by the new mark, may wait for a telling that never comes (tests/local/test_marks.py).
    """
    send = EXIT_HWM if end.hwm is None else end.hwm
    receive = LOCAL_HWM if end.hwm is None else end.hwm
    return (0 if end.socket == "XSUB" else send), receive


def set_up(socket: ZmqSocket, route: RoutePlan) -> None:
    """Everything that holds for the socket as a whole. Before its first bind or connect."""
    end = route.end
    send, receive = high_water_marks(end)
    numbers = {
        zmq.AFFINITY: LOCAL_AFFINITY,
        zmq.SNDHWM: send,
        zmq.RCVHWM: receive,
        zmq.LINGER: 0,
        zmq.MAXMSGSIZE: max_frame_bytes(route.max_message_bytes),
        zmq.HANDSHAKE_IVL: int(HANDSHAKE_S * 1000),
        zmq.CONNECT_TIMEOUT: int(LOCAL_CONNECT_S * 1000),
        zmq.RECONNECT_IVL: int(RECONNECT_MIN_S * 1000),
        zmq.RECONNECT_IVL_MAX: int(RECONNECT_MAX_S * 1000),
    }
    if end.sndbuf is not None:
        numbers[zmq.SNDBUF] = end.sndbuf
    if end.keepalive:
        numbers |= {
            zmq.TCP_KEEPALIVE: 1,
            zmq.TCP_KEEPALIVE_IDLE: int(KEEPALIVE_IDLE_S),
            zmq.TCP_KEEPALIVE_INTVL: int(KEEPALIVE_INTERVAL_S),
            zmq.TCP_KEEPALIVE_CNT: KEEPALIVE_COUNT,
        }
    if end.heartbeat_s:
        numbers[zmq.HEARTBEAT_IVL] = int(end.heartbeat_s * 1000)
        numbers[zmq.HEARTBEAT_TIMEOUT] = int(end.heartbeat_s * 1000 * HEARTBEAT_TIMEOUTS)
    for option, value in (numbers | _by_type(end)).items():
        socket.setsockopt(option, value)
    if end.routing_id is not None:
        socket.setsockopt(zmq.ROUTING_ID, end.routing_id)


def _by_type(end: EndPlan) -> dict[int, int]:
    if end.socket == "ROUTER":
        return {zmq.ROUTER_MANDATORY: 1, zmq.ROUTER_HANDOVER: int(end.handover)}
    if end.socket == "XPUB":
        return {zmq.XPUB_NODROP: 1}
    several = len(end.endpoints) > 1
    if end.socket in ("PUSH", "DEALER") and several:
        # else messages wait in the queue of an endpoint where nobody is; but what is queued when a peer restarts is
        # discarded (904 of 1,000 measured), so only where an end has several
        return {zmq.IMMEDIATE: 1}
    return {}


def before_bind(socket: ZmqSocket, route: RoutePlan, address: str) -> None:
    """Who may come in is asked at the gate of this route, and without its answer nobody does."""
    end = route.end
    socket.setsockopt(zmq.IPV6, _ipv6(address))
    socket.setsockopt(zmq.ZAP_DOMAIN, zap_domain(route.name).encode())
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    if end.curve is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, end.curve.own.secret.reveal().encode())
    elif end.plain is not None:
        socket.setsockopt(zmq.PLAIN_SERVER, 1)


def before_connect(socket: ZmqSocket, route: RoutePlan, address: str) -> None:
    end = route.end
    socket.setsockopt(zmq.IPV6, _ipv6(address))
    if is_mixed(end):
        socket.setsockopt(zmq.ZAP_DOMAIN, outward_domain(route.name).encode())
    if end.curve is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 0)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, end.curve.own.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, end.curve.own.secret.reveal().encode())
        socket.setsockopt(zmq.CURVE_SERVERKEY, (end.curve.server or "").encode())
    elif end.plain is not None:
        user, password = next(iter(end.plain.users.items()))
        socket.setsockopt(zmq.PLAIN_SERVER, 0)
        socket.setsockopt(zmq.PLAIN_USERNAME, user.encode())
        socket.setsockopt(zmq.PLAIN_PASSWORD, password.reveal().encode())


def _ipv6(address: str) -> int:
    """Only where it is meant: a socket with IPV6 shows and filters IPv4 peers as IPv6 ones. `*` means both."""
    return int(address.startswith(("tcp://[", "tcp://*")))
