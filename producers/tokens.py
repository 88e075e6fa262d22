"""Tokens: what a message shares with its kin, and the campaign they name. Pure.

A token is `scheme:value`. The campaign of an event is, in this order: its declared id; the strongest token by scheme, `html`
(structure with text sketch), `url` (registrable domain), `subject` (masked), then the first token of another scheme; `(none)` where
it shows no content. HELO, address, DKIM d= and From never define a campaign: a ring changes them with every message.
"""

from typing import Final

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
