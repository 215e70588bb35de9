"""Training of denoisers on images with classes: an objective of each kind, recipes, runs."""
