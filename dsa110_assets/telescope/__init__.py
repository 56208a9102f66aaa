"""What DSA-110 is: stations, band, site, meridian frame, primary beam, time grid."""
