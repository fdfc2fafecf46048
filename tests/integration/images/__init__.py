"""The supply of images against a real daemon and real registries."""
