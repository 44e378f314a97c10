"""The command line is tested on sides under real supervision."""

from tests.supervise.conftest import side

__all__ = ["side"]
