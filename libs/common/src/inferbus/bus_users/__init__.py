"""Who may connect to the bus: services and producers, each with an NKey and the permissions of its role, nothing more."""
