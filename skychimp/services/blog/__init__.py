"""Blog posts and their images."""
