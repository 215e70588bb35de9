"""Running on meshes of devices and on Cloud TPU: shardings, slices, ahead-of-time compilation.

`mesh` makes meshes, `rules` say which axes are cut over which of theirs, `shardings` applies them to models.

`slices` says what is rented; `compiler` finds the real TPU compiler, `reports` has what it says of a program,
and `aot` asks it about the programs of a model; `programs` and `denoisers` name the programs. What is kept of
them is in `jaxmodels.artefacts`.
"""
