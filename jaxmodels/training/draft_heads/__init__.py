"""Training of draft heads on the features of a frozen model: one loop, a file for each kind of head."""
