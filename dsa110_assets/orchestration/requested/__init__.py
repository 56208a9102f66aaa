"""Mosaics that people request by name: the requests, and the operations on them."""
