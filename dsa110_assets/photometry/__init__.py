"""Flux densities of sources on mosaics: forced and blind, associated, and normalised over epochs."""
