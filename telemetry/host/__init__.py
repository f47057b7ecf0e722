"""What a Linux host says about itself: thin, fast readers of /proc and /sys."""
