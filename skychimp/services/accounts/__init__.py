"""Registration, login, passwords and the emails about them."""
