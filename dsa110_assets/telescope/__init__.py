"""The properties of DSA-110: stations, band, site, meridian frame, primary beam, time grid."""
