"""Exact tables: every network of a grid judged once, and what is answered by looking it up."""

from __future__ import annotations
