"""Mosaics that people ask for by name: what they ask, and the verbs."""
