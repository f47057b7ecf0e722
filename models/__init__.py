"""Windows to surprise, pure."""
