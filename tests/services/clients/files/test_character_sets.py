"""Test the judgement of character sets: lists of names are read right, or a person is asked, and never read wrong."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from skychimp.services.clients.files import character_sets

NAMES = {
    "Russian": (
        "Иванов Иван|Юрий Гагарин|Пётр Ильич Чайковский|Щукин Эдуард|Фёдор Тютчев|Ольга Жукова|Подъячева Анна|Илья|"
        "Зоя Космодемьянская|Денис Цыплёнков|Санкт-Петербург|менеджер|ул. Ленина, 5|ВАСИЛЬЕВ ОЛЕГ|ЗАО Вектор|петров|"
        "Ян Цзю|Уфа|Ким|Ю Ли|клиент из Казани|д'Артаньян|Эльдар Рязанов|Мышкин"
    ),
    "Ukrainian": (
        "Тарас Шевченко|Леся Українка|Іван Франко|Оксана Лук'янова|Ірина Їжакевич|Ганна Ґонта|Євген Гребінка|Юлія|Ія|"
        "Сергій Жадан|Кривий Ріг|Вінниця|КОВАЛЕНКО ІГОР|клієнт з Одеси|Любов Щербак|Соломія Крушельницька"
    ),
    "German": (
        "Jürgen Müller|Björn Schäfer|Käthe Groß|Günther Weiß|Anna Schröder|Uschi Größle|Ägidius Über|Hans Meier|Süd|"
        "MÜLLER GMBH|grüße aus köln|Rüdiger Nehberg|Großkunde|Österreich|Weißenfels|Renée Zöllner|Ötzi Öztürk"
    ),
    "French": (
        "Hélène Dupont|François Lefèvre|Chloé Benoît|Zoë Noël|Jérôme Côté|Anaïs Lemaître|Geneviève Bujold|Cœur de Lion|"
        "Élodie Fréçon|Loïc Le Goff|Raphaël Élizé|à recontacter|Nîmes|Île-de-France|ÉRIC ROHMER|L'Haÿ-les-Roses|Adèle"
    ),
    "Spanish": (
        "José Muñoz|Núñez de Balboa|María García|Íñigo López|Begoña Ibáñez|Jesús Vázquez|Ángel Pérez|Agüero|Ñandú|León|"
        "Óscar Jiménez|La Coruña|España|Concepción Ordóñez|MUÑOZ SÁNCHEZ|Cigüeña|Inés|Álvaro Morata|desde el año"
    ),
    "Polish": "Łukasz Wałęsa|Małgorzata Żak|Święty Zieliński|Wisława Szymborska|Józef Piłsudski|Łódź|Dąbrowski|Gdańsk",
    "Czech": "Antonín Dvořák|Karel Čapek|Jiří Růžička|Božena Němcová|Tomáš Novák|Žofie Šťastná|Plzeň|Ladislav Sýkora",
    "Hungarian": "Győző Erdős|Árpád Szűcs|Márta Köröm|László Kovács|Ödön Hőgyes|Szeged Tűz|István Nagy|Kőszeg",
    "Turkish": "Şükrü Çağlar|Işık Özgür|Ayşe Yılmaz|Gülşen Doğan|İbrahim Öz|Ümit Kaş|Oğuz",
    "Greek": "Γιώργος Παπαδόπουλος|Μαρία Κάλλας|Νίκος Καζαντζάκης|Ελένη Γλύκατζη|Θεσσαλονίκη",
}
WESTERN = ("windows-1252", "iso-8859-1", "iso-8859-15", "mac-roman")
CASES = [
    *(("Russian", encoding) for encoding in ("windows-1251", "koi8-r", "cp866", "iso-8859-5")),
    *(("Ukrainian", encoding) for encoding in ("windows-1251", "koi8-u")),
    *((language, encoding) for language in ("German", "French", "Spanish") for encoding in WESTERN),
    *((language, encoding) for language in ("Polish", "Czech") for encoding in ("windows-1250", "iso-8859-2")),
    ("Hungarian", "windows-1250"),
    ("Turkish", "windows-1254"),
    ("Greek", "windows-1253"),
]


@pytest.mark.parametrize(("language", "encoding"), CASES)
def test_list_of_names_is_never_read_wrong(language: str, encoding: str) -> None:
    names = NAMES[language].split("|")
    chance = random.Random(encoding)
    counts: Counter[tuple[int, str]] = Counter()
    for rows in (1, 3, 20):
        for name in names:
            chosen = [name, *(chance.choice(names) for _ in range(rows - 1))]
            counts[rows, judge(chosen, encoding)] += 1

    assert not any(counts[rows, "wrong"] for rows in (1, 3, 20)), counts
    if language in ("Russian", "Ukrainian", "German", "Spanish"):
        assert counts[20, "asked"] <= 1, counts
        assert counts[3, "asked"] <= len(names) / 3, counts


def judge(names: Sequence[str], encoding: str) -> str:
    """Return whether a list of names is read right or wrong, a person is asked, or it is UTF-8 also."""
    text = "email,name\n" + "".join(f"c{number}@example.org,{name}\n" for number, name in enumerate(names))
    data = text.encode(encoding, errors="ignore")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        readings = character_sets.likely_readings(data, character_sets.COMMON)
        if len(readings) != 1:
            return "asked"
        return "right" if readings[0].text == data.decode(encoding) else "wrong"
    return "UTF-8"


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff\xfe\xfd\x80\x81" * 20, bytes(range(128, 256)), b"\x81" * 5000])
def test_noise_has_no_likely_reading(data: bytes) -> None:
    assert [reading for reading in character_sets.likely_readings(data, character_sets.COMMON) if len(data) > 1] == []


def test_readings_of_the_same_text_are_one() -> None:
    readings = character_sets.likely_readings(
        "José Muñoz, Zoé".encode("cp1252"), ["windows-1252", "iso-8859-1", "cp1252"]
    )

    assert [reading.encoding for reading in readings] == ["windows-1252"]
