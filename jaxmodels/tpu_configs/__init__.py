"""Running on Cloud TPU: ahead-of-time compilation for slices that are not there, and portable artefacts.

`aot` compiles a model's programs with the real TPU compiler and reports memory, FLOPs and bytes; `export`
lowers them for several platforms into serialisable artefacts; `programs` names the programs.
"""
