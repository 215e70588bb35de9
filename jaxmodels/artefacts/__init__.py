"""Compiled programs as files: the compilation cache of the command line, portable exports, executables."""
