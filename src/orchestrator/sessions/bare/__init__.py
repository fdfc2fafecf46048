"""What must work where nothing can be imported: in exit handlers, and in the watchdog.

Standard library only, and little of it: the watchdog runs these files with ``python -I -S``, as the
package ``bare``, without the rest of this project. Relative imports only, no docker, no typing,
no dataclasses (they cost start-up time and memory).
"""
