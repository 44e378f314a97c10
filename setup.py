"""Builds the optional C-speed pump; everything else is in pyproject.toml.

Without a compiler (or without Python's headers) the install still succeeds: the pure Python twin takes over, and
says so.
"""

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PURE = "the pure Python twin will be used (the same, but slower)."


class BuildPump(build_ext):
    """Compiling may fail; then the install goes on, and one sentence says what that means."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as error:
            print(f"ztunnel: the pump could not be compiled ({error}); {PURE}")

    def copy_extensions_to_source(self):
        """In place: what was not built cannot be copied."""
        try:
            super().copy_extensions_to_source()
        except Exception as error:
            print(f"ztunnel: there is no compiled pump to put in place ({error}); {PURE}")


def pump():
    """The extension to build: none without a Cython that can translate it."""
    try:
        from Cython.Build import cythonize

        module = Extension("tunnel.pump._pump", ["tunnel/pump/_pump.pyx"], extra_compile_args=["-O2"], optional=True)
        return cythonize([module], language_level=3)
    except Exception as error:
        print(f"ztunnel: Cython is missing or cannot translate the pump ({error!r}); {PURE}")
        return []


setup(ext_modules=pump(), cmdclass={"build_ext": BuildPump})
