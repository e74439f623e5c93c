"""Admission as a library: identity, entitlements, route, publish. Both doors call it; nobody else publishes work."""
