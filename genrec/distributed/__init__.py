"""The processes of one job: rank, world size, exchange of values; the only reader of what launchers set."""
