"""Schedule, compose and send mailings."""
