"""Which campaign an event belongs to, and whose a host name is."""

import pytest

from producers.tokens import campaign_of, registrable_domain


@pytest.mark.parametrize(
    ("declared", "tokens", "campaign"),
    [
        ("summer", ("html:x",), "declared:summer"),
        (None, ("subject:s", "url:u", "html:h"), "html:h"),
        (None, ("subject:s", "url:u"), "url:u"),
        (None, ("other:o", "subject:s"), "subject:s"),
        (None, ("url:first", "url:second"), "url:first"),
        (None, ("other:o", "another:a"), "other:o"),
        (None, (), "(none)"),
    ],
)
def test_the_strongest_sign_names_the_campaign(declared: str | None, tokens: tuple[str, ...], campaign: str) -> None:
    assert campaign_of(declared, tokens) == campaign


def test_a_declared_campaign_never_meets_one_named_by_content() -> None:
    assert campaign_of("html:x", ()) != campaign_of(None, ("html:x",))


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("mail.example.com", "example.com"),
        ("MAIL.Example.COM.", "example.com"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("shop.github.io", "shop.github.io"),
        ("deep.shop.github.io", "shop.github.io"),
        ("co.uk", "co.uk"),
        ("localhost", "localhost"),
        ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
    ],
)
def test_a_host_belongs_to_the_name_below_its_public_suffix(host: str, domain: str) -> None:
    assert registrable_domain(host) == domain
