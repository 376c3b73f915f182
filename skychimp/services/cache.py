"""The cache: what it holds, and how it stays right.

| what | key | why | for | another key, or none, after |
|---|---|---|---|---|
| the home page's counts, all and each user's own | home-OWNER:VERSION | every client is read | 1 h | a changed client, mailing or audience; the end of a mailing |
| ids and times of posts that are published or will be | posts:VERSION | all are read to draw three | 1 h | a post that comes, goes or is published at another time |
| a post's HTML | html-ID:HASH | Markdown is slow | 1 h | another content |

Never the view counter, nor a title or slug: they are read where they are shown.

A key has two parts: a place, and the version of what lies there. The version is read from the store in the transaction
that computes or shows (home.py), where triggers renew it within every transaction that changes what was counted
(models.py). So nobody has to invalidate anything, whoever has written sees it at once, and what was computed from an
older view of the store is never taken for newer. Versions are random: a restored store, or another one, has others.
The hour is for what nobody thought of.

The cache is a folder of this account's (a file a place, so that it does not grow), or a Redis server; values are JSON.
Without it everything is only slower.
"""
