"""Know the headings of the columns of other mailing tools and address books; pure.

They are compared without case, punctuation and underscores: "FIRST_NAME" and "firstName" are "first name".
"""

import re
from collections.abc import Collection, Mapping

FIELDS: Mapping[str, Collection[str]] = {
    "email": {
        "email", "e mail", "mail", "email address", "e mail address", "emailaddress", "primary email", "email 1",
        "e mail 1 value", "email 1 value", "subscriber email", "contact email",
        "e mail adresse", "email adresse", "primäre e mail adresse", "adresse e mail", "adresse email", "courriel",
        "correo electrónico", "correo", "электронная почта", "адрес электронной почты", "эл почта", "почта",
        "електронна пошта", "електронна адреса",
    },
    "name": {
        "name", "full name", "fullname", "display name", "contact name", "anzeigename", "vollständiger name",
        "nom complet", "nombre completo", "фио", "полное имя", "піб",
    },
    "first_name": {
        "first name", "firstname", "fname", "given name", "forename", "vorname", "prénom", "prenom", "nombre", "имя",
        "ім я",
    },
    "last_name": {
        "last name", "lastname", "lname", "family name", "surname", "nachname", "nom", "nom de famille", "apellido",
        "apellidos", "фамилия", "прізвище",
    },
    "comment": {
        "comment", "comments", "note", "notes", "kommentar", "notiz", "notizen", "commentaire", "commentaires",
        "comentario", "comentarios", "notas", "комментарий", "примечание", "заметки", "коментар", "примітка",
    },
    "consent_at": {"consent at"},
    "consent": {"consent"},
    "consent_proof": {"consent proof"},
    "tags": {
        "tag", "tags", "label", "labels", "group", "groups", "group membership", "categories", "gruppen", "kategorien",
        "étiquettes", "groupes", "catégories", "etiquetas", "grupos", "categorías", "метки", "теги", "группы", "мітки",
    },
}  # fmt: skip
FURTHER_EMAIL = re.compile(
    r"(secondary|work|home|business|private|personal|other|additional) (e ?mail)( address(es)?)?"
    r"|e ?mail [2-9]( value| address)?"
)
"""An address that is used only if the file has no main one."""
_NEW_WORD = re.compile("(?<=[a-z])(?=[A-Z])")


def is_email(heading: str) -> bool:
    """Return whether a column with this heading can have the email address."""
    name = normalise(heading)
    return name in FIELDS["email"] or FURTHER_EMAIL.fullmatch(name) is not None


def is_known(heading: str) -> bool:
    """Return whether a column with this heading would be read."""
    return is_email(heading) or any(normalise(heading) in names for names in FIELDS.values())


def normalise(text: str) -> str:
    """Return a heading or a status without its case, punctuation and underscores."""
    return re.sub(r"[\W_]+", " ", _NEW_WORD.sub(" ", text).casefold()).strip()
