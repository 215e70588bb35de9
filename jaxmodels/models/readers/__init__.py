"""What several families read and write alike: keys of configurations, and names of weights."""
