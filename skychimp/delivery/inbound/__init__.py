"""Understand mail that comes back. Everything here is pure: bytes in, a verdict out."""
