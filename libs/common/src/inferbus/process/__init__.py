"""What every service process has: event loop and health server, presence, draining."""
