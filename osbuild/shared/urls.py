"""URLs in messages and records, without user, password and query."""

import re
from urllib.parse import urlsplit, urlunsplit

SCHEME = re.compile(r"[\0-\x20]*[a-z][a-z0-9+.-]*:/+", re.IGNORECASE)
IN_TEXT = re.compile(r"[a-z][a-z0-9+.-]*:/+[^\s'\"`]*(?<![:,;.)])", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return a URL without user, password, query and fragment; any other text unchanged.

    Only the scheme remains if the URL is malformed, or has an `@` after its host.
    """
    scheme = SCHEME.match(url)
    if scheme is None:
        return url
    try:
        parts = urlsplit(url)
        _ = parts.port
        if parts.scheme == "file" and not parts.netloc:
            return url
        user, _, host = parts.netloc.rpartition("@")
        # urlsplit ends the host at a `/`, `?` or `#`, which a password may contain, so the secret may be in any part.
        readable = bool(parts.netloc) and "@" not in user + parts.path + parts.query + parts.fragment
    except ValueError:
        readable = False
    if not readable:
        return f"{scheme.group().strip().rstrip('/')}//…" if "@" in url or "?" in url or "://" in url else url
    return urlunsplit(parts._replace(netloc=host, query="…" if parts.query else "", fragment=""))


def redact_urls(text: str) -> str:
    """Return `text`, such as the message of a library, with every URL in it redacted."""
    return IN_TEXT.sub(lambda match: redact_url(match.group()), text)
