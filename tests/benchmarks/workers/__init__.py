"""What is measured runs here: each sample in a process of its own, its figures as JSON."""
