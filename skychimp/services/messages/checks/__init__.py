"""Check rendered emails for what readers, mail programs and spam filters dislike; pure."""
