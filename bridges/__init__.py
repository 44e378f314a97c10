"""Bridges: ordinary 0MQ applications that speak an older protocol on their other side."""
