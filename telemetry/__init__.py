"""The floor: everything that reads the outside world, and the types all floors share."""
