"""Define the roles of users."""

from enum import StrEnum


class Role(StrEnum):
    """What a user is here for; `permissions` says what each role may do."""

    USER = "user"
    MANAGER = "manager"
    EDITOR = "editor"
    ADMIN = "admin"
