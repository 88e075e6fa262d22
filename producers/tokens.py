"""Tokens: what a message shares with its kin, and the campaign they name. Pure.

A token is `scheme:value`. The campaign of an event is, in this order: its declared id; the strongest token by scheme, `html`
(structure with text sketch), `url` (registrable domain), `subject` (masked), then the first token of another scheme; `(none)` where
it shows no content. HELO, address, DKIM d= and From never define a campaign: a ring changes them with every message.
"""

from functools import lru_cache
from typing import Final

import tldextract

NO_CAMPAIGN: Final = "(none)"
SCHEMES: Final = ("html:", "url:", "subject:")


def campaign_of(declared: str | None, tokens: tuple[str, ...]) -> str:
    """The campaign's name, without the kind: a declared id is named `declared:...`, so that it never meets a token's name."""
    if declared is not None:
        return "declared:" + declared
    for scheme in SCHEMES:
        for token in tokens:
            if token.startswith(scheme):
                return token
    return tokens[0] if tokens else NO_CAMPAIGN


_SUFFIXES: Final = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)
"""The public suffix list as the library ships it: nothing is fetched."""


@lru_cache(maxsize=200_000)
def registrable_domain(host: str) -> str:
    """The registrable domain of a host, lower case: one label below its public suffix, private suffixes included.

    The list's rule for unknown suffixes is `*`: the last label. A host that is itself a suffix, a single label or an address literal
    is its own.
    """
    host = host.lower().rstrip(".")
    found = _SUFFIXES.extract_str(host)
    if found.suffix or found.ipv4 or found.ipv6 or host.startswith("["):
        return found.top_domain_under_public_suffix or host
    return ".".join(host.split(".")[-2:])
