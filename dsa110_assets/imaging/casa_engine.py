"""Stock CASA tclean as a second imager: the same arguments and results as `imaging.tile.make_tile`."""
