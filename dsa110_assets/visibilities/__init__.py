"""Visibilities: UVH5 in, grouping, phasing, flagging, averaging, measurement sets out."""
