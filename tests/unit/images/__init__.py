"""Unit tests of the supply of images."""
