"""The blog as a static site: pages, a feed, a stylesheet, without a line of JavaScript."""
