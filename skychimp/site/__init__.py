"""Build the blog as a static site, and reports as HTML pages; without JavaScript."""
