"""The portal: web pages, API and metrics over the archive; on loopback by default, and read-only without a token."""
