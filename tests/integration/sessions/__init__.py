"""The commands about sessions, against the real daemon."""
