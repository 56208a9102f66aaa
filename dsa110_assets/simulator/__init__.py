"""A faithful telescope: subband files as the correlator writes them, and the truth beside them."""
