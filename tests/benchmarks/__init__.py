"""Benchmarks: what a test class costs, beside the floor and beside testcontainers-python."""
