"""The platform on one machine: which processes, started and kept alive by whom, with their state in one folder."""
