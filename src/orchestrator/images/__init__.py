"""The supply of images: references, the lock file, pulling."""
