"""Events to windows, pure."""
