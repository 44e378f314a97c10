"""Finds the libzmq that pyzmq itself has loaded, and the addresses of its functions.

The compiled pump must call exactly that library: a second libzmq would not know the first one's sockets. Nothing is
loaded here that is not loaded already. Works with pyzmq's wheels (a bundled libzmq) and with a distribution's
(libzmq.so.5). Raises ImportError with a sentence when there is none, and the pure twin takes over.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator

import zmq

FUNCTIONS = (
    "zmq_errno",
    "zmq_getsockopt",
    "zmq_msg_close",
    "zmq_msg_data",
    "zmq_msg_gets",
    "zmq_msg_init",
    "zmq_msg_init_data",
    "zmq_msg_init_size",
    "zmq_msg_more",
    "zmq_msg_move",
    "zmq_msg_recv",
    "zmq_msg_send",
    "zmq_msg_size",
)


def addresses(names: Iterable[str] = FUNCTIONS) -> dict[str, int]:
    """The address of each function, all of one library whose version is the one that pyzmq reports."""
    names = tuple(names)
    for library in _loaded():
        found = _look_up(library, names)
        if found:
            return found
    raise ImportError("The libzmq that pyzmq uses was not found among the loaded libraries.")


def _loaded() -> Iterator[ctypes.CDLL]:
    """Libraries to search: pyzmq's own extension modules (and so what they depend on), then any mapped libzmq."""
    modules = [module for name, module in sys.modules.items() if name.startswith("zmq.")]
    files = [getattr(module, "__file__", None) or "" for module in modules]
    for path in dict.fromkeys([*(file for file in files if ".so" in file), *_mapped()]):
        try:
            yield ctypes.CDLL(path, mode=os.RTLD_NOW | getattr(os, "RTLD_NOLOAD", 0))
        except OSError:
            continue


def _mapped() -> list[str]:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            paths = [line.rstrip("\n").partition("/")[2] for line in maps]
    except OSError:
        return []
    return ["/" + path for path in dict.fromkeys(paths) if "libzmq" in os.path.basename(path)]


def _look_up(library: ctypes.CDLL, names: tuple[str, ...]) -> dict[str, int]:
    try:
        if _version(library) != zmq.zmq_version_info():
            return {}
        pointers = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names}
    except AttributeError:
        return {}
    return {name: pointer for name, pointer in pointers.items() if pointer}


def _version(library: ctypes.CDLL) -> tuple[int, int, int]:
    major, minor, patch = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    library.zmq_version(ctypes.byref(major), ctypes.byref(minor), ctypes.byref(patch))
    return major.value, minor.value, patch.value
