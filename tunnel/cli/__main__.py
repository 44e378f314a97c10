"""`python -m tunnel.cli` is `ztunnel`, for where the console script is not on the PATH."""

from tunnel.cli import main

main()
