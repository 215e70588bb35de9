"""Training of policies of depth beside a frozen model: one loop, a file for each kind of policy."""
