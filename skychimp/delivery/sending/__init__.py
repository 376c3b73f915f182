"""Send due emails and record the replies."""
