"""`make demo`: both halves on this machine, ordinary 0MQ applications at both ends, and what crosses, live."""
