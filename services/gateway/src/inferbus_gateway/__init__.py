"""The gateway: two doors (HTTP and bus) in front of one admission."""
