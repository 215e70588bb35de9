"""Models that draw images, ready to run: what `jaxmodels.load` gives for a directory of several parts."""
