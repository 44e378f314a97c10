"""Ordinary pyzmq applications: processes that take `bind|connect ENDPOINT` and know nothing of ztunnel."""
