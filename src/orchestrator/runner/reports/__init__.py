"""What a run tells: to a person while it runs, and to CI systems afterwards."""
