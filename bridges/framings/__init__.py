"""Framings: one file a family of kinds. Pure, like bridges/framing.py, which holds the table of them."""
