"""Numbers that identify people, each with what python-stdnum says of it: `rule number 0` or `rule number 1`, a line each.

    identity.py COUNT SEED

A third of each rule's numbers are random digits, a third have a date where the rule has one, and a third are right: of those the last
digits are tried until they are."""

import datetime
import random
import sys

from stdnum import issn
from stdnum.be import bis, nn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.ro import cnp
from stdnum.se import personnummer
from stdnum.tr import tckimlik
from stdnum.us import ssn

COUNT, SEED = int(sys.argv[1]), int(sys.argv[2])
random.seed(SEED)


def digits(count, of="0123456789"):
    return "".join(random.choice(of) for _ in range(count))


def day(form):
    return (datetime.date(1900, 1, 1) + datetime.timedelta(days=random.randrange(45000))).strftime(form)


def moved(text, at, by):
    """A part of a date with so much added to its first digit."""
    return text[:at] + str((int(text[at]) + by) % 10) + text[at + 1:]


def codice():
    letters = digits(6, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    born = day("%y") + random.choice("ABCDEHLMPRST") + "%02d" % (random.randrange(1, 32) + random.choice([0, 40]))
    text = letters + born + random.choice("ABCDEFGHIJKLM") + digits(3)
    # Where two are called the same, digits become letters.
    if random.random() < 0.2:
        text = "".join("LMNPQRSTUV"[int(c)] if c.isdigit() and random.random() < 0.3 else c for c in text)
    return text


COUNTIES = ["110101", "110103", "110112", "110221", "310000", "440301", "510104", "653226", "610481", "999999", "130900"]
MONTHS = [0, 2, 4]
# Of each rule: who decides, random numbers, numbers with a date, and what stands at the end of a right one.
RULES = {
    "us_ssn": (ssn, lambda: digits(9), None, None),
    "es_nif": (None, lambda: digits(8) + random.choice("TRWAGMYFPDXBNJZSQVHLCKE"), lambda: random.choice("XYZ") + digits(7), "TRWAGMYFPDXBNJZSQVHLCKE"),
    "it_codice_fiscale": (codicefiscale, lambda: codice() + random.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), codice, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "fr_nir": (nir, lambda: random.choice("12345678") + digits(14), lambda: random.choice("12") + day("%y%m") + random.choice(["2A", "2B", digits(2)]) + digits(6), "99"),
    "nl_bsn": (bsn, lambda: digits(9), lambda: digits(8), "9"),
    "br_cpf": (cpf, lambda: digits(11), lambda: digits(9), "99"),
    "pl_pesel": (pesel, lambda: digits(11), lambda: moved(day("%y%m%d"), 2, 2 * random.randrange(5)) + digits(4), "9"),
    "se_personnummer": (personnummer, lambda: digits(10), lambda: day(random.choice(["%y%m%d", "%Y%m%d"])) + digits(3), "9"),
    "fi_hetu": (hetu, lambda: digits(6) + random.choice("+-ABCDEFUVWXY") + digits(3) + random.choice("0123456789ABCDEFHJKLMNPRSTUVWXY"),
                lambda: day("%d%m%y") + random.choice("+-ABCDEFUVWXY") + digits(3), "0123456789ABCDEFHJKLMNPRSTUVWXY"),
    "ca_sin": (sin, lambda: digits(9), lambda: digits(8), "9"),
    "ch_ahv": (ahv, lambda: "756" + digits(10), lambda: "756" + digits(9), "9"),
    "be_nrn": (None, lambda: digits(11), lambda: moved(day("%y%m%d"), 2, random.choice(MONTHS)) + digits(3), "99"),
    "cn_ric": (ric, lambda: digits(1, "123456") + digits(16) + random.choice("0123456789X"),
               lambda: random.choice(COUNTIES) + day("%Y%m%d") + digits(3), "0123456789X"),
    "in_aadhaar": (aadhaar, lambda: digits(1, "23456789") + digits(11), lambda: digits(1, "23456789") + digits(10), "9"),
    "no_fnr": (fodselsnummer, lambda: digits(11), lambda: moved(moved(day("%d%m%y"), 0, random.choice([0, 0, 4, 8])), 2, random.choice([0, 0, 4, 8])) + digits(3), "99"),
    "de_steuer_id": (idnr, lambda: digits(1, "123456789") + digits(10),
                     lambda: "".join(random.sample("123456789", 1)) + "".join(random.sample("0123456789", 9)), "9"),
    "tr_tckn": (tckimlik, lambda: digits(1, "123456789") + digits(10), lambda: digits(1, "123456789") + digits(8), "99"),
    "ro_cnp": (cnp, lambda: digits(13), lambda: random.choice("123456789") + day("%y%m%d") + "%02d" % random.randrange(1, 90) + digits(3), "9"),
    "dk_cpr": (cpr, lambda: digits(10), lambda: day("%d%m%y") + digits(4), None),
    "issn": (issn, lambda: digits(7) + random.choice("0123456789X"), lambda: digits(7), "0123456789X"),
}


def decided(rule, judge, number):
    if rule == "es_nif":
        return (nie if number[0] in "XYZ" else dni).is_valid(number)
    if rule == "be_nrn":
        return nn.is_valid(number) or bis.is_valid(number)
    try:
        return judge.is_valid(number)
    except KeyError:
        # A province of which no county is known.
        return False


def ends(ending):
    if ending == "9":
        return "0123456789"
    if ending == "99":
        return ["%02d" % n for n in range(100)]
    return ending or [""]


for rule, (judge, plain, dated, ending) in RULES.items():
    for n in range(COUNT):
        if n % 3 == 0 or dated is None:
            number = plain()
        else:
            body = dated()
            tried = list(ends(ending))
            random.shuffle(tried)
            right = [body + end for end in tried if decided(rule, judge, body + end)] if n % 3 == 1 else []
            number = right[0] if right else body + tried[0]
        # One digit repeated has the check digits of a CPF, and belongs to nobody.
        if rule == "br_cpf" and len(set(number)) == 1:
            continue
        print(rule, number, int(decided(rule, judge, number)))
