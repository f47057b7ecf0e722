"""What a host can and cannot tell."""
