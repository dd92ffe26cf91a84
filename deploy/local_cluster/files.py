"""Words for the person at the terminal, and files that are never half written."""

import contextlib
import json
import os
import sys


def say(text):
    print(text, file=sys.stderr, flush=True)


def fail(text, status=1):
    say(f"local-cluster: {text}")
    sys.exit(status)


def read_json(path, otherwise):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return otherwise


def write(path, text):
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def write_secret(path, text):
    partial = path.with_name(path.name + ".partial")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)
