"""Builds the optional C-speed pump; everything else is in pyproject.toml.

Without a compiler (or without Python's headers) the install still succeeds: the pure Python twin takes over, and
says so.
"""

from setuptools import Extension, setup

try:
    from Cython.Build import cythonize

    extensions = cythonize(
        [Extension("tunnel.pump._pump", ["tunnel/pump/_pump.pyx"], extra_compile_args=["-O2"], optional=True)],
        language_level=3,
    )
except ImportError:
    print("ztunnel: Cython is missing, so the pump is not compiled; the pure Python twin will be used (slower).")
    extensions = []

setup(ext_modules=extensions)
