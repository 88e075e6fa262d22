"""One message, one event: what the lines of a Postfix log become."""

import itertools
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from producers.event import MailEvent, check
from producers.sources.postfix_grammar import StampReader, infer_year
from producers.sources.postfix_join import HOLD_MS, MAX_LINE_BYTES, PostfixJoiner
from tests.postfix_log import (
    active,
    at,
    client,
    delivery,
    filtered,
    join,
    joiner,
    line,
    of,
    removed,
    requeued,
)  # fmt: skip


def only(events: list[MailEvent]) -> MailEvent:
    assert len(events) == 1
    check(events[0])
    return events[0]


class TestAMessage:
    def test_is_one_accepted_event_with_what_the_log_knows(self) -> None:
        event = only(
            join(
                [
                    client("10:00:00", "4A1B2C3D"),
                    line("10:00:00", "cleanup", "4A1B2C3D: message-id=<1@example.org>"),
                    active("10:00:02", "4A1B2C3D", recipients=3, size=4321),
                    *[delivery("10:00:03", "4A1B2C3D")] * 3,
                    removed("10:00:03", "4A1B2C3D"),
                ]
            )
        )
        assert (event.disposition, event.copies, event.size_bytes) == ("accepted", 3, 4321)
        assert (event.ip, event.sender, event.account, event.sender_domain) == (
            "192.0.2.7",
            "shop@example.org",
            None,
            None,
        )
        assert (event.direction, event.time_ms) == ("inbound", at("10:00:02"))
        assert (event.source.type, event.source.host, event.source.counts) == ("postfix", "mx", True)

    def test_of_a_remote_client_is_told_before_it_is_delivered(self) -> None:
        joined = joiner()
        for text in (client("10:00:00", "4A1B2C3D"), active("10:00:00", "4A1B2C3D")):
            joined.feed(text.encode())
        assert len(joined.take()) == 1

    def test_that_never_became_whole_is_none(self) -> None:
        assert join([client("10:00:00", "4A1B2C3D"), line("10:00:09", "smtpd", "lost connection after DATA")]) == []

    def test_of_a_logged_in_user_is_outbound_and_names_the_account(self) -> None:
        more = ", sasl_method=PLAIN, sasl_username=anna@example.test"
        event = only(
            join([client("10:00:00", "4A1B2C3D", more=more, daemon="submission/smtpd"), active("10:00:00", "4A1B2C3D")])
        )
        assert (event.account, event.direction) == ("anna@example.test", "outbound")

    @pytest.mark.parametrize("daemon", ["smtpd", "submission/smtpd", "../postfix-in/smtpd"])
    def test_is_read_whatever_the_service_is_called(self, daemon: str) -> None:
        arrival = client("10:00:00", "4A1B2C3D", daemon=daemon).replace("postfix/../", "")
        assert only(join([arrival, active("10:00:00", "4A1B2C3D")])).ip == "192.0.2.7"

    def test_with_a_long_queue_id_is_read(self) -> None:
        assert only(join([client("10:00:00", "4bKxWZ2zNRz9vLd"), active("10:00:00", "4bKxWZ2zNRz9vLd")]))

    @pytest.mark.parametrize("written", ["IPv6:2001:db8::7", "2001:db8::7"])
    def test_over_ipv6_keeps_its_address(self, written: str) -> None:
        assert only(join([client("10:00:00", "4A1B2C3D", written), active("10:00:00", "4A1B2C3D")])).ip == "2001:db8::7"

    def test_of_an_unknown_address_has_none(self) -> None:
        assert only(join([client("10:00:00", "4A1B2C3D", "unknown"), active("10:00:00", "4A1B2C3D")])).ip is None

    def test_tried_again_is_not_counted_again(self) -> None:
        events = join(
            [
                client("10:00:00", "4A1B2C3D"),
                active("10:00:00", "4A1B2C3D"),
                delivery(
                    "10:00:01", "4A1B2C3D", "deferred (connect timed out)", daemon="smtp", relay="none", dsn="4.4.1"
                ),
                active("10:05:00", "4A1B2C3D"),
                delivery(
                    "10:05:01", "4A1B2C3D", "deferred (connect timed out)", daemon="smtp", relay="none", dsn="4.4.1"
                ),
                active("10:15:00", "4A1B2C3D"),
                delivery("10:15:01", "4A1B2C3D", daemon="smtp", relay="a[203.0.113.1]:25"),
                removed("10:15:01", "4A1B2C3D"),
            ]
        )
        assert len(of(events, "accepted")) == 1
        assert [event.time_ms for event in of(events, "deferred")] == [at("10:00:01"), at("10:05:01")]
        assert {event.ip for event in events} == {"192.0.2.7"}
        assert len({event.id for event in events}) == 3

    def test_bounced_for_two_recipients_and_expired_for_the_rest_says_each(self) -> None:
        events = join(
            [
                client("10:00:00", "4A1B2C3D"),
                active("10:00:00", "4A1B2C3D", recipients=3),
                delivery("10:00:01", "4A1B2C3D", "bounced (host said: 550 no)", to="a@b.example", dsn="5.1.1"),
                delivery("10:00:01", "4A1B2C3D", "bounced (host said: 554 no)", to="c@b.example", dsn="5.7.1"),
                line("10:09:00", "qmgr", "4A1B2C3D: from=<shop@example.org>, status=expired, returned to sender"),
            ]
        )
        assert [event.reason for event in of(events, "bounced")] == ["unknown_user", "policy", "other"]
        assert all(event.copies == 1 for event in of(events, "bounced"))

    def test_with_a_queue_id_that_was_used_before_is_another(self) -> None:
        one = [client("10:00:00", "4A1B2C3D"), active("10:00:00", "4A1B2C3D"), removed("10:00:01", "4A1B2C3D")]
        two = [client("11:00:00", "4A1B2C3D", "192.0.2.8"), active("11:00:00", "4A1B2C3D")]
        three = [client("12:00:00", "4A1B2C3D", "192.0.2.9"), active("12:00:00", "4A1B2C3D")]
        assert [event.ip for event in join(one + two + three)] == ["192.0.2.7", "192.0.2.8", "192.0.2.9"]

    def test_of_two_hosts_in_one_log_is_not_mixed_up(self) -> None:
        here = [client("10:00:00", "4A1B2C3D"), active("10:00:00", "4A1B2C3D")]
        there = [text.replace(" mx ", " mx2 ").replace("192.0.2.7", "192.0.2.8") for text in here]
        events = join([here[0], there[0], here[1], there[1]])
        assert [(event.source.host, event.ip) for event in events] == [("mx", "192.0.2.7"), ("mx2", "192.0.2.8")]
        assert events[0].id != events[1].id


class TestAFilter:
    def test_that_sends_a_message_back_does_not_make_two_of_it(self) -> None:
        event = only(join(filtered("4A1B2C3D", "5A1B2C3D", recipients=2)))
        assert (event.ip, event.copies, event.size_bytes) == ("192.0.2.7", 2, 900)

    def test_keeps_the_login_for_what_becomes_of_the_copy(self) -> None:
        more = ", sasl_method=PLAIN, sasl_username=anna@example.test"
        lines = filtered("4A1B2C3D", "5A1B2C3D", recipients=2, more=more)
        bounce = delivery(
            "10:00:01", "5A1B2C3D", "bounced (host said: 550 no)", daemon="smtp", relay="a[203.0.113.1]:25", dsn="5.1.1"
        )
        lines[6:7] = [bounce]  # logged before it is known whose copy it is
        lines.insert(-1, bounce.replace("10:00:01", "10:00:02"))
        bounced = of(join(lines), "bounced")
        assert [(event.account, event.ip) for event in bounced] == [("anna@example.test", "192.0.2.7")] * 2

    def test_behind_a_local_client_makes_one_message_of_one(self) -> None:
        for recipients in (1, 3):
            event = only(join(filtered("4A1B2C3D", "5A1B2C3D", "127.0.0.1", recipients)))
            assert (event.copies, event.time_ms, event.size_bytes) == (recipients, at("10:00:00"), 900)

    def test_that_splits_a_message_does_not_multiply_it(self) -> None:
        lines = filtered("4A1B2C3D", "5A1B2C3D", recipients=2)
        again = [client("10:00:01", "6A1B2C3D", "127.0.0.1"), active("10:00:01", "6A1B2C3D")]
        lines[7:9] = [
            *again,
            requeued("10:00:01", "4A1B2C3D", "5A1B2C3D"),
            requeued("10:00:01", "4A1B2C3D", "6A1B2C3D"),
        ]
        assert only(join(lines)).copies == 2

    def test_of_mail_sent_from_this_machine_makes_one_outbound_message(self) -> None:
        lines = filtered("4A1B2C3D", "5A1B2C3D")
        lines[0] = line("10:00:00", "pickup", "4A1B2C3D: uid=0 from=<root>")
        lines[6] = delivery("10:00:01", "5A1B2C3D", daemon="smtp", relay="a.example[203.0.113.1]:25")
        event = only(join(lines))
        assert (event.direction, event.ip, event.time_ms) == ("outbound", None, at("10:00:00"))

    def test_that_speaks_xforward_is_joined_at_once(self) -> None:
        more = ", orig_queue_id=4A1B2C3D, orig_client=host.example[192.0.2.7]"
        joined = joiner()
        for text in [
            *filtered("4A1B2C3D", "5A1B2C3D")[:3],
            client("10:00:01", "5A1B2C3D", "127.0.0.1", more),
            active("10:00:01", "5A1B2C3D"),
        ]:
            joined.feed(text.encode())
        assert len(joined.take()) == 1
        joined.finish()
        assert joined.take() == []

    def test_on_another_machine_of_ours_is_joined(self) -> None:
        lines = filtered("4A1B2C3D", "5A1B2C3D")
        lines[3] = client("10:00:01", "5A1B2C3D", "10.0.0.5")
        lines[7] = requeued("10:00:01", "4A1B2C3D", "5A1B2C3D", "scan.example[10.0.0.5]:10024")
        assert only(join(lines)).ip == "192.0.2.7"

    def test_before_the_queue_tells_who_the_client_was(self) -> None:
        event = only(
            join(
                [
                    line("10:00:00", "smtpd", "NOQUEUE: client=host.example[192.0.2.7]"),
                    client("10:00:01", "5A1B2C3D", "127.0.0.1"),
                    active("10:00:01", "5A1B2C3D"),
                    line(
                        "10:00:01",
                        "smtpd",
                        "proxy-accept: END-OF-MESSAGE from host.example[192.0.2.7]: 250 2.0.0 Ok: queued as 5A1B2C3D; "
                        "from=<a@b.example> to=<c@d.example> proto=ESMTP helo=<x>",
                    ).replace("]: proxy", "]: NOQUEUE: proxy"),
                ]
            )
        )
        assert (event.ip, event.direction) == ("192.0.2.7", "inbound")

    def test_a_remote_servers_queued_as_means_nothing(self) -> None:
        """A stranger who knows a queue id of ours cannot make its message vanish."""
        theirs = [client("10:00:00", "4A1B2C3D", "127.0.0.1"), active("10:00:00", "4A1B2C3D")]
        ours = [client("10:00:00", "5A1B2C3D"), active("10:00:00", "5A1B2C3D")]
        said = delivery(
            "10:00:01", "5A1B2C3D", "sent (250 Ok: queued as 4A1B2C3D)", daemon="smtp", relay="a[203.0.113.1]:25"
        )
        assert len(join(theirs + ours + [said])) == 2

    def test_forwarding_by_local_is_the_same_message(self) -> None:
        lines = filtered("4A1B2C3D", "5A1B2C3D")
        del lines[3]
        lines[6] = delivery("10:00:01", "4A1B2C3D", "sent (forwarded as 5A1B2C3D)", daemon="local", relay="local")
        assert only(join(lines)).ip == "192.0.2.7"


class TestMailOfOurOwn:
    def test_a_bounce_is_a_message_with_the_null_sender(self) -> None:
        event = only(
            join(
                [
                    line("10:00:00", "cleanup", "4A1B2C3D: message-id=<1@mx.example>"),
                    active("10:00:00", "4A1B2C3D", sender=""),
                    line("10:00:00", "bounce", "3A1B2C3D: sender non-delivery notification: 4A1B2C3D"),
                    delivery("10:00:00", "4A1B2C3D", daemon="smtp", relay="a.example[203.0.113.1]:25"),
                    removed("10:00:00", "4A1B2C3D"),
                ]
            )
        )
        assert (event.sender, event.direction, event.ip) == ("", "outbound", None)

    def test_an_address_probe_is_no_message(self) -> None:
        probe = delivery("10:00:00", "4A1B2C3D", "undeliverable (host said: 550 no)", daemon="smtp", dsn="5.1.1")
        lines = [
            line("10:00:00", "cleanup", "4A1B2C3D: message-id=<1@mx>"),
            active("10:00:00", "4A1B2C3D"),
            probe,
            removed("10:00:01", "4A1B2C3D"),
        ]
        assert join(lines) == []

    def test_waits_for_a_filter_less_than_the_pipelines_grace(self) -> None:
        assert HOLD_MS < 60_000
        joined = joiner()
        for text in (
            client("10:00:00", "4A1B2C3D", "127.0.0.1"),
            active("10:00:00", "4A1B2C3D"),
            removed("10:00:01", "4A1B2C3D"),
        ):
            joined.feed(text.encode())
        joined.feed(line("10:00:44", "anvil", "statistics: max cache size 1").encode())
        assert joined.take() == []
        joined.feed(line("10:00:45", "anvil", "statistics: max cache size 1").encode())
        assert only(joined.take()).time_ms == at("10:00:00")


class TestTheLogBefore:
    def test_counted_what_arrived_before_this_log_began(self) -> None:
        late = delivery("10:00:00", "4A1B2C3D", "deferred (no)", delay="3600", dsn="4.4.1")
        events = join([active("10:00:00", "4A1B2C3D"), late, active("12:00:00", "4A1B2C3D")])
        assert only(events).disposition == "deferred"
        assert events[0].sender == "shop@example.org"

    def test_did_not_count_what_arrived_since_though_its_first_line_is_lost(self) -> None:
        lines = [
            line("10:00:00", "anvil", "statistics: max cache size 1"),
            active("10:00:09", "4A1B2C3D", 2),
            delivery("10:00:09", "4A1B2C3D", delay="2"),
        ]
        assert only(join(lines)).copies == 2

    def test_nor_a_filtered_message_of_which_only_the_deliveries_are_left(self) -> None:
        lines = [
            line("10:00:00", "anvil", "statistics: max cache size 1"),
            requeued("10:00:09", "4A1B2C3D", "5A1B2C3D"),
            delivery("10:00:09", "5A1B2C3D"),
        ]
        assert only(join(lines)).copies == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            ("554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using bl.example; see there", "policy"),
            (
                "550 5.1.1 <x@example.test>: Recipient address rejected: User unknown in local recipient table",
                "unknown_user",
            ),
            ("554 5.7.1 <x@other.example>: Relay access denied", "relay"),
            ("504 5.5.2 <WIN-1>: Helo command rejected: need fully-qualified hostname", "protocol"),
            ("450 4.1.8 <a@nowhere.example>: Sender address rejected: Domain not found", "protocol"),
            ("450 4.7.1 Error: too much mail from 192.0.2.7", "rate"),
            ("450 4.2.0 <x@example.test>: Recipient address rejected: Greylisted", "other"),
            ("550 5.7.23 <x@example.test>: Recipient address rejected: SPF fail", "auth"),
            ("452 4.2.2 <x@example.test>: Mailbox full", "quota"),
            ("550 no", "other"),
        ],
    )
    def test_before_the_message_are_attempts_with_a_reason(self, reply: str, reason: str) -> None:
        said = f"NOQUEUE: reject: RCPT from host.example[192.0.2.7]: {reply}; from=<a@b.example> to=<x@example.test> proto=ESMTP helo=<h.example>"
        event = only(join([line("10:00:00", "smtpd", said)]))
        assert (event.disposition, event.reason, event.copies) == ("attempt", reason, 1)
        assert (event.ip, event.sender, event.helo) == ("192.0.2.7", "a@b.example", "h.example")

    def test_of_several_recipients_are_one_event_each_though_the_lines_are_equal(self) -> None:
        said = "NOQUEUE: reject: RCPT from h[192.0.2.7]: 554 5.7.1 no; from=<a@b.example> to=<x@example.test> proto=ESMTP helo=<h>"
        events = join([line("10:00:00", "smtpd", said)] * 3)
        assert len({event.id for event in events}) == 3

    def test_by_postscreen_are_read_with_its_commas(self) -> None:
        said = (
            "NOQUEUE: reject: RCPT from [192.0.2.7]:4711: 550 5.7.1 Service unavailable; client [192.0.2.7] blocked using bl.example; "
            "from=<a@b.example>, to=<x@example.test>, proto=ESMTP, helo=<h>"
        )
        event = only(join([line("10:00:00", "postscreen", said)]))
        assert (event.ip, event.reason, event.sender, event.helo) == ("192.0.2.7", "policy", "a@b.example", "h")

    @pytest.mark.parametrize(("status", "disposition"), [("5.7.1", "rejected"), ("4.7.1", "deferred")])
    def test_by_a_milter_at_the_end_are_of_the_message(self, status: str, disposition: str) -> None:
        said = f"4A1B2C3D: milter-reject: END-OF-MESSAGE from h[192.0.2.7]: {status} Spam message rejected; from=<a@b.example> to=<x@example.test> proto=ESMTP helo=<h>"
        event = only(join([client("10:00:00", "4A1B2C3D"), line("10:00:01", "cleanup", said)]))
        assert (event.disposition, event.reason, event.ip, event.sender) == (
            disposition,
            "content",
            "192.0.2.7",
            "a@b.example",
        )

    @pytest.mark.parametrize("verb", ["reject", "discard"])
    def test_by_header_checks_are_of_the_message_and_believe_no_header(self, verb: str) -> None:
        said = f"4A1B2C3D: {verb}: header Subject: x from host[198.51.100.1]; from=<victim@example.net> from h[192.0.2.7]; from=<a@b.example> to=<x@example.test> proto=ESMTP helo=<h>: 5.7.1 no"
        event = only(join([client("10:00:00", "4A1B2C3D"), line("10:00:01", "cleanup", said)]))
        assert (event.disposition, event.reason, event.ip, event.sender) == ("rejected", "content", "192.0.2.7", None)


class TestHostileLines:
    def test_a_recipient_that_looks_like_fields_fakes_none(self) -> None:
        theirs = [client("10:00:00", "5A1B2C3D", "127.0.0.1"), active("10:00:00", "5A1B2C3D")]
        forged = '"x>, relay=127.0.0.1[127.0.0.1]:1, delay=1, delays=1/1/1/1, dsn=2.0.0, status=sent (250 queued as 5A1B2C3D)"@b.example'
        ours = [client("10:00:00", "4A1B2C3D"), active("10:00:00", "4A1B2C3D")]
        said = delivery(
            "10:00:01", "4A1B2C3D", "deferred (no)", to=forged, daemon="smtp", relay="a[203.0.113.1]:25", dsn="4.4.1"
        )
        events = join([*theirs, *ours, said])
        assert (len(of(events, "accepted")), len(of(events, "deferred"))) == (2, 1)

    def test_a_sender_that_looks_like_fields_fakes_none(self) -> None:
        sender = "x>, size=1, nrcpt=999999 (queue active)@b.example"
        event = only(join([client("10:00:00", "4A1B2C3D"), active("10:00:00", "4A1B2C3D", sender=sender)]))
        assert (event.copies, event.sender) == (1, sender)

    def test_a_response_that_looks_like_fields_fakes_none(self) -> None:
        said = "sent (250 ok to=<v@example.net>, relay=none, delay=1, delays=1/1/1/1, dsn=5.0.0, status=bounced (x))"
        assert (
            of(
                join(
                    [
                        client("10:00:00", "4A1B2C3D"),
                        active("10:00:00", "4A1B2C3D"),
                        delivery("10:00:01", "4A1B2C3D", said),
                    ]
                ),
                "bounced",
            )
            == []
        )

    def test_a_refusal_in_which_a_stranger_wrote_two_senders_names_none(self) -> None:
        said = 'NOQUEUE: reject: RCPT from h[192.0.2.7]: 554 5.7.1 <"; from=<v@example.net> to="@b.example>: Relay access denied; from=<a@b.example> to=<x@example.test> proto=ESMTP helo=<h>'
        event = only(join([line("10:00:00", "smtpd", said)]))
        assert (event.sender, event.ip) == (None, "192.0.2.7")

    def test_an_over_long_sender_is_refused_and_the_message_counted(self) -> None:
        joined = joiner()
        event = only(join([client("10:00:00", "4A1B2C3D"), active("10:00:00", "4A1B2C3D", sender="ä" * 200)], joined))
        assert event.sender is None
        assert joined.refused == {"too_long": 1}

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b"x" * (MAX_LINE_BYTES + 1), "too_long"),
            (b"\0\0\0", "nul"),
            (b"no header at all", "unparsed"),
            (b"Mar  3 10:00:00 mx postfix/qmgr[1]: 4A1B2C3D: from=<a@b.example>, size=x", "unparsed"),
            (b"Mar  3 10:00:00 mx postfix/smtp[1]: 4A1B2C3D: to=<a@b.example>, relay", "unparsed"),
            (b"Mar  3 10:00:00 mx postfix/smtpd[1]: 4A1B2C3D: client=nothing", "unparsed"),
            (b"Mar  3 10:00:00 mx postfix/smtpd[1]: NOQUEUE: reject: RCPT", "unparsed"),
            (b"Mar 33 10:00:00 mx postfix/smtpd[1]: connect from h[192.0.2.7]", "bad_time"),
            (b"2100-01-01T00:00:00Z mx postfix/smtpd[1]: connect from h[192.0.2.7]", "future"),
            (client("10:00:00", "4A1B2C3D").encode() + b", sasl_method=PLAIN, sasl_username=" + b"u" * 321, "too_long"),
        ],
    )
    def test_a_line_that_cannot_be_used_is_counted_by_reason(self, text: bytes, reason: str) -> None:
        joined = joiner()
        assert join([text], joined) == []
        assert joined.refused == {reason: 1}

    def test_bytes_that_are_not_utf8_do_no_harm(self) -> None:
        raw = [
            text.encode()
            for text in (client("10:00:00", "4A1B2C3D"), active("10:00:00", "4A1B2C3D", sender="caf?@b.example"))
        ]
        assert only(join([raw[0], raw[1].replace(b"?", b"\xe9")])).sender == "caf\ufffd@b.example"

    def test_lines_that_carry_nothing_are_not_refused(self) -> None:
        joined = joiner()
        quiet = [
            line("10:00:00", "smtpd", "connect from h[192.0.2.7]"),
            line("10:00:00", "smtpd", "disconnect from h[192.0.2.7] ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5"),
            line("10:00:00", "smtpd", "warning: h[192.0.2.7]: SASL LOGIN authentication failed"),
            line("10:00:00", "smtp", "Trusted TLS connection established to a[203.0.113.1]:25: TLSv1.3"),
            line("10:00:00", "smtp", "4A1B2C3D: host a[203.0.113.1] said: 451 later (in reply to RCPT TO command)"),
            line(
                "10:00:00",
                "cleanup",
                "4A1B2C3D: replace: header MIME-Version: 1.0 from h[192.0.2.7]; from=<a@b.example>: x",
            ),
            "Mar  3 10:00:00 mx amavis[9]: (9-1) Passed CLEAN, [192.0.2.7] <a@b.example> -> <c@d.example>, queued_as: 5A1B2C3D",
            "Mar  3 10:00:00 mx dovecot: lmtp(9): Connect from local",
            "Mar  3 10:00:00 mx last message repeated 2 times",
        ]
        assert join(quiet, joined) == []
        assert joined.refused == {}


class TestTime:
    def test_a_log_over_new_year_goes_on_in_the_next_year(self) -> None:
        stamps = StampReader(UTC, 2025)
        assert [
            datetime.fromtimestamp(stamps.read(text) / 1000, UTC).year
            for text in ("Dec 31 23:59:59", "Jan  1 00:00:00", "Dec 31 23:59:59", "Feb 28 00:00:00")
        ] == [2025, 2026, 2025, 2026]

    def test_traditional_stamps_are_in_the_zone_given_and_rfc_3339_ones_say_theirs(self) -> None:
        stamps = StampReader(ZoneInfo("Europe/Berlin"), 2026)
        assert stamps.read("Mar  3 11:00:00") == stamps.read("2026-03-03T11:00:00.000+01:00") == at("10:00:00")

    def test_the_hour_that_comes_twice_in_autumn_is_read_in_order(self) -> None:
        stamps = StampReader(ZoneInfo("Europe/Berlin"), 2026)
        read = [
            stamps.read(text) for text in ("Oct 25 02:30:00", "Oct 25 02:59:59", "Oct 25 02:00:00", "Oct 25 03:00:00")
        ]
        assert [later - earlier for earlier, later in itertools.pairwise(read)] == [
            1_799_000,
            1_000,
            3_600_000,
        ]

    @pytest.mark.parametrize(
        ("first", "last", "changed", "year"),
        [
            ("Mar  1 00:00:00", "Mar  8 00:00:00", "2026-03-08T00:00:00", 2026),
            ("Mar  1 00:00:00", "Mar  8 00:00:00", "2026-03-07T00:00:00", 2025),
            ("Dec 28 00:00:00", "Jan  3 00:00:00", "2026-01-03T00:00:00", 2025),
            ("Feb 29 00:00:00", "Mar  3 00:00:00", "2026-01-03T00:00:00", 2024),
        ],
    )
    def test_the_year_is_the_newest_that_puts_nothing_in_the_future(
        self, first: str, last: str, changed: str, year: int
    ) -> None:
        newest_ms = round(datetime.fromisoformat(changed).replace(tzinfo=UTC).timestamp() * 1000)
        assert infer_year(first, last, newest_ms, UTC) == year


class TestGoingOn:
    def test_a_snapshot_too_large_for_a_record_forgets_the_oldest_counted_ones(self) -> None:
        joined = joiner()
        for number in range(12_000):
            queue_id = f"{number:08X}"
            for text in (client("10:00:00", queue_id), active("10:00:00", queue_id, sender="s" * 100)):
                joined.feed(text.encode())
        assert len(joined.snapshot()) < 1_000_000
        assert len(joined.take()) == 12_000

    def test_a_host_given_by_the_user_replaces_the_logs_word(self) -> None:
        event = only(
            join([client("10:00:00", "4A1B2C3D"), active("10:00:00", "4A1B2C3D")], joiner(host="mail.example.test"))
        )
        assert event.source.host == "mail.example.test"

    def test_the_same_log_gives_the_same_ids(self) -> None:
        lines = filtered("4A1B2C3D", "5A1B2C3D")
        assert join(lines) == join(lines)
        assert isinstance(joiner(), PostfixJoiner)
