"""unittest in parallel, where a crash loses nothing. README.md beside this file tells how."""
