"""What keeps the lessons running; no lesson needs a reader to open it."""
