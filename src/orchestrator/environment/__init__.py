"""One class's network and services: start, bind, stop."""
