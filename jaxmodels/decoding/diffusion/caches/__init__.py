"""Caches: policies that leave out work of a denoising run, one small file each."""
