"""What masked generation keeps of a canvas between steps."""
