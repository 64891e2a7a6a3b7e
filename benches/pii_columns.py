"""Columns of made-up data, labelled with what they hold: a line of JSON each on standard output.

    pii_columns.py > columns.jsonl      {"name", "label" or null, "values"}

Personal data by Faker in many locales under telling, vague and foreign names; beside them what looks like it and is not:
order numbers, hashes, versions, timestamps, amounts, codes with other check digits. Also says, per column, what Presidio's
own pattern recognisers call it ("peer"), where they are installed."""

import datetime
import json
import os
import random
import re
import sys

from faker import Faker
from stdnum import verhoeff

ROWS = 200
PHONE = "en_US en_GB de_DE fr_FR es_ES it_IT nl_NL pl_PL pt_BR sv_SE fi_FI en_CA de_CH nl_BE ja_JP tr_TR cs_CZ de_AT pt_PT ro_RO el_GR da_DK".split()
MANY = "en_US en_GB de_DE fr_FR es_ES it_IT nl_NL pl_PL pt_BR sv_SE fi_FI ja_JP tr_TR ru_RU cs_CZ el_GR".split()
VAGUE = ["c{}", "value_{}", "field{}", "data_{}", "attr{}", "info", "x{}", "key_{}", "text", "contact", "col_{}"]
NAMES = {
    "email": ["email", "cust_email", "userEmail", "E-Mail", "correo", "mail_address", "contact_email_2", "courriel"],
    "phone": ["phone", "telephone", "mobile_no", "custPhone", "telefon", "fax", "home_phone", "celular"],
    "credit_card": ["card_number", "cc_number", "pan", "creditCard", "kreditkarte"],
    "iban": ["iban", "account_iban", "ibanNumber"],
    "ip_address": ["ip", "client_ip", "ip_address", "remoteAddr", "last_login_ip"],
    "mac_address": ["mac", "mac_address", "device_mac"],
    "url": ["url", "website", "homepage", "profile_url"],
    "date_of_birth": ["dob", "date_of_birth", "birthDate", "geburtsdatum", "date_de_naissance", "birthday", "fecha_nacimiento", "born", "data_urodzenia"],
    "us_ssn": ["ssn", "customer_ssn"], "es_nif": ["nif", "dni"], "it_codice_fiscale": ["codice_fiscale"], "fr_nir": ["nir", "num_secu"],
    "nl_bsn": ["bsn"], "br_cpf": ["cpf"], "pl_pesel": ["pesel"], "se_personnummer": ["personnummer"], "fi_hetu": ["hetu"], "ca_sin": ["sin"],
    "ch_ahv": ["ahv_nr"], "be_nrn": ["rijksregisternummer"], "cn_ric": ["身份证号"], "in_aadhaar": ["aadhaar"], "no_fnr": ["fnr"],
    "tr_tckn": ["tckn"], "ro_cnp": ["cnp"],
}
NATIONAL = {
    "us_ssn": ("en_US", "ssn"), "es_nif": ("es_ES", "nif"), "it_codice_fiscale": ("it_IT", "ssn"), "fr_nir": ("fr_FR", "ssn"),
    "nl_bsn": ("nl_NL", "ssn"), "br_cpf": ("pt_BR", "cpf"), "pl_pesel": ("pl_PL", "ssn"), "se_personnummer": ("sv_SE", "ssn"),
    "fi_hetu": ("fi_FI", "ssn"), "ca_sin": ("en_CA", "ssn"), "ch_ahv": ("de_CH", "ssn"), "be_nrn": ("nl_BE", "ssn"),
    "cn_ric": ("zh_CN", "ssn"), "in_aadhaar": ("en_IN", "aadhaar_id"), "no_fnr": ("no_NO", "ssn"), "tr_tckn": ("tr_TR", "ssn"),
    "ro_cnp": ("ro_RO", "ssn"),
}
SEED = int(os.environ.get("BRAHMAN_BENCH_SEED", "7"))
random.seed(SEED)
fakers = {}


def faker(locale):
    if locale not in fakers:
        fakers[locale] = Faker(locale)
        fakers[locale].seed_instance(1000 * SEED + len(fakers))
    return fakers[locale]


def name_of(label):
    """Half of the names tell, half do not; of a date of birth only the name can tell."""
    if label == "date_of_birth" or random.random() < 0.5:
        return random.choice(NAMES[label])
    return random.choice(VAGUE).format(random.randrange(100))


def column(label, make):
    # Some columns have gaps and junk, as real ones do.
    junk = random.choice([0, 0, 0, 0.05])
    return name_of(label), label, [random.choice(["n/a", "unknown", "-"]) if random.random() < junk else str(make()) for _ in range(ROWS)]


def card(f, kind):
    """Of JCB's numbers, Faker also makes some that begin as none does."""
    while (number := f.credit_card_number(kind)).startswith("35") and not 3528 <= int(number[:4]) <= 3589:
        pass
    return number


def aadhaar():
    """Faker's own have random check digits."""
    body = digits(11, "23456789")
    return body + verhoeff.calc_check_digit(body)


def personal():
    for _ in range(9):
        for locale in MANY:
            yield column("email", random.choice([faker(locale).email, faker(locale).company_email, faker(locale).free_email]))
        for locale in PHONE:
            yield column("phone", faker(locale).phone_number)
        for locale in MANY:
            yield column("url", random.choice([faker(locale).url, faker(locale).uri]))
            style = random.choice(["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y"])
            yield column("date_of_birth", lambda f=faker(locale), s=style: f.date_of_birth(minimum_age=1, maximum_age=100).strftime(s))
        for locale in "de_DE fr_FR es_ES it_IT nl_NL pl_PL en_GB de_CH nl_BE fi_FI da_DK de_AT pt_PT ro_RO cs_CZ el_GR".split():
            yield column("iban", faker(locale).iban)
        f = faker("en_US")
        for kind in ["visa16", "mastercard", "amex", "discover", "jcb16", "diners", "visa13", "maestro"]:
            yield column("credit_card", lambda k=kind: card(f, k))
        spaced = lambda: re.sub("(....)(?=.)", r"\1 ", f.credit_card_number("visa16"))
        yield column("credit_card", spaced)
        for make in [f.ipv4, f.ipv4_private, f.ipv4_public, f.ipv6, f.ipv4, f.ipv6, f.ipv4_public, f.ipv4]:
            yield column("ip_address", make)
        for make in [f.mac_address, lambda: f.mac_address().upper().replace(":", "-"), f.mac_address, f.mac_address]:
            yield column("mac_address", make)
        for label, (locale, method) in NATIONAL.items():
            for _ in range(9):
                yield column(label, aadhaar if label == "in_aadhaar" else getattr(faker(locale), method))


def digits(n, first="123456789"):
    return random.choice(first) + "".join(random.choice("0123456789") for _ in range(n - 1))


def luhn(body):
    total = sum(d if i % 2 else sum(divmod(d * 2, 10)) for i, d in enumerate(int(c) for c in reversed(body)))
    return body + str(-total % 10)


def look_alikes():
    f = faker("en_US")
    now = 1_700_000_000
    kinds = {
        "order_no": lambda: digits(16), "order_number": lambda: digits(9), "invoice": lambda: f"INV-{digits(8)}", "po": lambda: f"20{digits(2)}-{digits(6)}",
        "order_id": lambda: digits(11), "tracking": lambda: digits(12), "sku": lambda: f.bothify("??-####-??").upper(), "ticket": lambda: digits(10),
        "shipment_no": lambda: f"{digits(4)}-{digits(4)}-{digits(4)}", "padded": lambda: f"{random.randrange(10**6):010d}",
        "sha": f.sha256, "md5": f.md5, "uuid": f.uuid4, "commit": lambda: f.sha1()[:7], "hash_num": lambda: digits(18),
        "version": lambda: f"{random.randrange(9)}.{random.randrange(20)}.{random.randrange(30)}", "build": lambda: f"{random.randrange(9)}.{random.randrange(20)}.{random.randrange(30)}.{random.randrange(200)}",
        "win_build": lambda: f"10.0.{random.randrange(10000, 30000)}.{random.randrange(2000)}",
        "created_at": lambda: datetime.datetime.fromtimestamp(now - random.randrange(10**8)).isoformat(), "updated": lambda: str(now - random.randrange(10**8)),
        "ts_ms": lambda: str(now * 1000 - random.randrange(10**11)), "ts_us": lambda: str(now * 10**6 - random.randrange(10**14)), "order_date": lambda: f.date(),
        "due": lambda: f.date(pattern="%d.%m.%Y"), "time": f.time, "birthday_mail_sent": lambda: datetime.datetime.fromtimestamp(now - random.randrange(10**8)).isoformat(),
        "amount": lambda: f"{random.random() * 10**5:.2f}", "total": lambda: f"{random.random() * 10**7:,.2f}", "ratio": lambda: f"0.{digits(8)}", "price_eur": lambda: f"{random.randrange(10**4)},{random.randrange(100):02d}",
        "lat": lambda: str(f.latitude()), "coords": lambda: f"{f.latitude()}, {f.longitude()}", "isbn": f.isbn13, "ean": f.ean13, "ean8": f.ean8,
        "imei": lambda: luhn("35" + digits(12)), "member_no": lambda: luhn("9" + digits(14)), "company": f.company, "product_name": f.catch_phrase, "city": f.city,
        "country": f.country_code, "colour": f.color_name, "hex": f.hex_color, "mime": f.mime_type, "file": f.file_name, "path": f.file_path, "job": f.job,
        "status": lambda: random.choice(["open", "closed", "pending"]), "flag": lambda: random.choice("01"), "count": lambda: str(random.randrange(1000)), "year": f.year,
        "email_sent_count": lambda: str(random.randrange(50)), "phone_calls": lambda: str(random.randrange(10**4)), "card_type": f.credit_card_provider,
        "comment": f.sentence, "currency": f.currency_code, "license": f.license_plate, "bban": f.bban, "swift": f.swift, "ticker": lambda: f.lexify("????").upper(),
        "part_no": lambda: f"{digits(3)}-{digits(3)}-{digits(3)}", "serial": lambda: f.bothify("##??######").upper(), "score": lambda: str(random.gauss(0, 1)),
        "tcp_port": lambda: str(random.randrange(65536)), "size": lambda: f"{random.randrange(10**9)} B", "duration": lambda: f"{random.randrange(24)}:{random.randrange(60):02d}:{random.randrange(60):02d}",
        "handle": lambda: "@" + f.user_name(), "npm": lambda: f"{f.word()}@{random.randrange(9)}.{random.randrange(9)}.{random.randrange(9)}", "ssh": lambda: f"git@{f.word()}:{f.word()}/{f.word()}", "mrn": lambda: f"MRN{digits(7)}",
    }
    for _ in range(24):
        for kind, make in kinds.items():
            name = kind if random.random() < 0.5 else random.choice(VAGUE).format(random.randrange(100))
            yield name, None, [str(make()) for _ in range(ROWS)]


def presidio():
    """Presidio's pattern recognisers, most votes of 100 values; None if it is not installed."""
    if os.environ.get("BRAHMAN_BENCH_NO_PEER"):
        return None
    try:
        import tldextract
        from presidio_analyzer import predefined_recognizers as p
    except ImportError:
        return None
    # Its list of top-level domains as it was installed: it is not asked for anew with each address.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())
    recognisers = {"email": p.EmailRecognizer(), "phone": p.PhoneRecognizer(), "credit_card": p.CreditCardRecognizer(), "iban": p.IbanRecognizer(),
                   "ip_address": p.IpRecognizer(), "mac_address": p.MacAddressRecognizer(), "url": p.UrlRecognizer(), "us_ssn": p.UsSsnRecognizer(), "es_nif": p.EsNifRecognizer(),
                   "it_codice_fiscale": p.ItFiscalCodeRecognizer(), "pl_pesel": p.PlPeselRecognizer(), "in_aadhaar": p.InAadhaarRecognizer(), "fi_hetu": p.FiPersonalIdentityCodeRecognizer(), "date_of_birth": p.DateRecognizer()}

    def call(values):
        votes = {}
        for value in values[:100]:
            for label, recogniser in recognisers.items():
                found = recogniser.analyze(value, recogniser.supported_entities, None)
                if any(r.score >= 0.4 and r.end - r.start >= 0.8 * len(value) for r in found):
                    votes[label] = votes.get(label, 0) + 1
        best = max(votes, key=votes.get, default=None)
        return best if best and votes[best] >= 50 else None

    return call


def main():
    peer = presidio()
    for name, label, values in [*personal(), *look_alikes()]:
        line = {"name": name, "label": label, "values": values}
        if peer:
            line["peer"] = peer(values)
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
