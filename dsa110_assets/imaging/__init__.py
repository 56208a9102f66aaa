"""Images from visibilities: weighting, gridding, deconvolution, primary beam, FITS."""
