"""Rules of remasking: edits of tokens that are known, see `jaxmodels.decoding.masked.seen.Remask`."""
