"""A ztunnel written in Python; it exists for the embedded provider alone (see docs/explanation/embedded.md)."""
