"""The portal: web pages, JSON and metrics over the archive. Read-only, loopback by default."""
