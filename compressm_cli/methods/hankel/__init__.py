"""Balanced truncation by Hankel singular values."""
