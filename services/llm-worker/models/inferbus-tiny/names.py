"""Names and values to copy: known cities, invented words, numbers.

A model that only ever saw thirty cities learns thirty cities. Most names here are invented on the spot, so that the
only way to be right is to copy. One invented name in HELD_OUT_SHARE is never used in training; the examination uses
only those.
"""

# ruff: noqa: SIM905 - word lists read better as text than as lists of quoted strings

from __future__ import annotations

import zlib
from random import Random

HELD_OUT_SHARE = 10
CITIES = (
    *"""Paris London Berlin Rome Madrid Vienna Oslo Tokyo Lima Cairo Delhi Quito Boston Chicago Dublin Lisbon Athens
    Prague Warsaw Munich Hamburg Milan Zürich Geneva Seoul Beijing Sydney Toronto Amsterdam Brussels""".split(),
    *("New York", "San Francisco", "Los Angeles", "Hong Kong", "São Paulo"),
)
# Never in training: the examination's cities.
HELD_OUT_CITIES = """Helsinki Budapest Bucharest Nairobi Havana Jakarta Manila Kyoto Osaka Porto Seville Krakow Lagos
    Accra Tunis Bogotá Santiago Montreal Denver Seattle Atlanta Melbourne Leipzig Bremen Lyon Marseille Naples Turin
    Utrecht Antwerp Gdansk Riga Tallinn Vilnius Minsk Ankara Baghdad Tehran Kabul Hanoi""".split()
COMMON_CITY_CHANCE = 0.2
TWO_WORDS_CHANCE = 0.12
LOWER_CASE_CHANCE = 0.08
ONSETS = [*"b c d f g h j k l m n p r s t v w z br ch cl dr fr gr kr pl pr sh st th tr".split(), "", ""]
VOWELS = "a a e e i i o o u u ai ea ia ie io oo ou y á é ö ü".split()
CODAS = [*"n r s l m t k d x ck nd ng rt st lm".split(), "", "", "", ""]
WORDS = """open close read write list file key value module class thread path time text code error import package
    socket server client queue lock event loop task test parser token string bytes number date table image music
    history science football cooking travel weather garden market price energy water bridge animal planet
    robot""".split()


def held_out(name: str) -> bool:
    """Say whether an invented name belongs to the examination."""
    return zlib.crc32(name.lower().encode()) % HELD_OUT_SHARE == 0


def invented_name(rng: Random, *, examination: bool = False) -> str:
    """Invent a name of one to three syllables, from the side of the fence that was asked for."""
    while True:
        syllables = rng.choices((1, 2, 3), (1, 5, 3))[0]
        parts = (rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables))
        name = "".join(parts).capitalize()
        if len(name) > 2 and held_out(name) is examination:
            return name


def any_name(rng: Random) -> str:
    """A name for training: a known city now and then, otherwise invented, sometimes in two words or lower case."""
    if rng.random() < COMMON_CITY_CHANCE:
        name = rng.choice(CITIES)
    else:
        name = invented_name(rng)
        if rng.random() < TWO_WORDS_CHANCE:
            name += " " + invented_name(rng)
    return name.lower() if rng.random() < LOWER_CASE_CHANCE else name


def any_phrase(rng: Random) -> str:
    """One to three lower-case words."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.choice((1, 1, 2, 3))))


def any_number(rng: Random) -> int:
    """A whole number of one to four digits, small ones more often."""
    return rng.randrange(10 ** rng.choice((1, 2, 2, 3, 4)))
