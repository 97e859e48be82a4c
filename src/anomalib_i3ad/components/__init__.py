"""What torch models share, without Lightning."""
