"""Lagrange multipliers and the rules that move them."""
