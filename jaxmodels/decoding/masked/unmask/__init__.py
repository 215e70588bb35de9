"""Rules of unmasking: which unknown places a step fills in, see `jaxmodels.decoding.masked.seen.Unmask`."""
