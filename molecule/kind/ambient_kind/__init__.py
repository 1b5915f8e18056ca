"""A Docker engine and a node image of this machine's own making, for the scenario `kind`."""
