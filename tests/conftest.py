"""Puts this directory on the path of all tests, for the modules that they share."""
