"""Simulator of the telescope: subband files as the correlator writes them, together with the truth."""
