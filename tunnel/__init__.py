"""ztunnel: a split 0MQ device. Two halves, one authenticated link, every local endpoint from one route table."""

__version__ = "0.1.0"
