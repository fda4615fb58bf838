"""Where stages run: on this machine, or as jobs of a batch system."""
