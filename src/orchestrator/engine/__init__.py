"""The only room that knows docker-py."""
