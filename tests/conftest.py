"""Its folder is where pytest finds the tests' own modules, such as `servers`."""
