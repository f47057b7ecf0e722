"""Captures: bytes of any container in, columns of packets out."""
