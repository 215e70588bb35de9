"""Running on meshes of devices and on Cloud TPU: shardings, ahead-of-time compilation, portable artefacts.

`mesh` makes meshes, `rules` say which axes are cut over which of theirs, `shardings` applies them to models.

`slices` says what is rented; `compiler` finds the real TPU compiler, `reports` has what it says of a program,
and `aot` asks it about the programs of a model; `export` lowers them for several platforms into serialisable
artefacts; `programs` and `denoisers` name the programs.
"""
