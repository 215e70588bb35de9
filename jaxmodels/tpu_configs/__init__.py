"""Running on Cloud TPU: slices, ahead-of-time compilation for those that are not there, portable artefacts.

`slices` says what is rented; `compiler` finds the real TPU compiler, `reports` what it says of a program, `aot`
asks it about all programs of a model; `export` lowers them for several platforms into serialisable artefacts;
`programs` and `denoisers` name the programs.
"""
