"""Columns of sentences, labelled by others: a line of JSON each on standard output.

    pii_templates.py > columns.jsonl      {"name", "labels": [...], "values", "peer": [...] or absent}

The sentences are the templates of Presidio's evaluator (presidio-evaluator, installed without what it depends on), their gaps filled by
Faker in eight locales; each gap's own values are a column, too, under a name that says nothing. The labels are the templates' own. Kinds
that values cannot prove (names, places, organisations, ages, jobs) are in the sentences and are nobody's label: calling them something
else is a false positive. "peer" is what Presidio's pattern recognisers find in at least a tenth of a column's values."""

import importlib.util
import json
import os
import random
import re
import sys
from pathlib import Path

from faker import Faker

LOCALES = "en_US en_GB de_DE fr_FR es_ES it_IT nl_NL pl_PL".split()
ROWS = 60
# The templates' gaps that both sides know a kind for.
LABELS = {"credit_card_number": "credit_card", "phone_number": "phone", "email": "email", "url": "url", "iban": "iban", "ip_address": "ip_address", "ssn": "us_ssn"}
SHARE = 0.1
SEED = int(os.environ.get("BRAHMAN_BENCH_SEED", "7"))
GAP = re.compile(r"\{\{\s*([a-z_]+)\s*\}\}")


def templates():
    package = importlib.util.find_spec("presidio_evaluator")
    folder = Path(package.submodule_search_locations[0])
    text = (folder / "data_generator" / "raw_data" / "templates.txt").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


class Gaps:
    """What stands in a gap, in one locale."""

    def __init__(self, locale, number):
        self.faker, self.locale = Faker(locale), locale
        self.faker.seed_instance(1000 * SEED + number)
        self.random = random.Random(1000 * SEED + number)

    def fill(self, gap):
        f = self.faker
        others = {
            "person": f.name, "organization": f.company, "age": lambda: str(self.random.randrange(1, 100)), "ip_address": lambda: self.random.choice([f.ipv4, f.ipv6])(),
            "secondary_address": lambda: f"Apt. {self.random.randrange(1, 999)}", "zipcode": f.postcode, "nationality": f.country, "nation_woman": f.country, "nation_plural": f.country,
            "state_abbr": lambda: f.lexify("??").upper(), "date_time": lambda: str(f.date_time()), "date_of_birth": lambda: str(f.date_of_birth()),
            "us_driver_license": lambda: f.bothify("?#######").upper(), "first_name_nonbinary": f.first_name, "religion": lambda: "Buddhist", "hospital_name": f.company,
            "building_number": lambda: str(self.random.randrange(1, 999)),
        }
        make = others.get(gap) or getattr(f, gap, None) or f.word
        return str(make()).replace("\n", ", ")


def columns():
    lines = templates()
    for number, locale in enumerate(LOCALES):
        gaps = Gaps(locale, number)
        # A social security number of elsewhere is another kind, or none that a template's author meant.
        known = {gap: label for gap, label in LABELS.items() if gap != "ssn" or locale == "en_US"}
        fillable = [line for line in lines if "{{ssn}}" not in line or locale == "en_US"]
        for at, line in enumerate(fillable):
            labels = sorted({known[gap] for gap in GAP.findall(line) if gap in known})
            yield f"text_{at}", labels, [GAP.sub(lambda m: gaps.fill(m.group(1)), line) for _ in range(ROWS)]
        for gap in sorted({gap for line in fillable for gap in GAP.findall(line)}):
            yield "value", [known[gap]] if gap in known else [], [gaps.fill(gap) for _ in range(ROWS)]


def presidio():
    """What Presidio's pattern recognisers find within texts, at the score that serves them best (0.4: telephone numbers have it)."""
    import tldextract
    from presidio_analyzer import predefined_recognizers as p

    # Its list of top-level domains as it was installed: it is not asked for anew with each address.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())
    recognisers = {"email": p.EmailRecognizer(), "phone": p.PhoneRecognizer(), "credit_card": p.CreditCardRecognizer(), "iban": p.IbanRecognizer(),
                   "ip_address": p.IpRecognizer(), "url": p.UrlRecognizer(), "us_ssn": p.UsSsnRecognizer()}

    def call(values):
        found = dict.fromkeys(recognisers, 0)
        for value in values:
            hits = {label: [r for r in each.analyze(value, each.supported_entities, None) if r.score >= 0.4] for label, each in recognisers.items()}
            # An address of e-mail holds a domain: as Presidio's engine does, what lies within a surer hit is none.
            hits["url"] = [u for u in hits["url"] if not any(e.start <= u.start and u.end <= e.end for e in hits["email"])]
            for label, each in hits.items():
                found[label] += bool(each)
        return sorted(label for label, n in found.items() if n >= SHARE * len(values))

    return call


def main():
    peer = None if os.environ.get("BRAHMAN_BENCH_NO_PEER") else presidio()
    for name, labels, values in columns():
        line = {"name": name, "labels": labels, "values": values}
        if peer:
            line["peer"] = peer(values)
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
