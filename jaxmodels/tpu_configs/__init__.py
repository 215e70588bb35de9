"""Running on Cloud TPU: slices, ahead-of-time compilation for those that are not there, portable artefacts.

`slices` says what is rented; `compiler` finds the real TPU compiler, `reports` has what it says of a program,
and `aot` asks it about the programs of a model; `export` lowers them for several platforms into serialisable
artefacts; `programs` and `denoisers` name the programs.
"""
