"""Limits on input size and request rate."""

import pytest

from limits import MAX_TOKENS, MAX_VISITORS, RateLimit, token_limit, visitor_at


def test_a_visitor_over_the_limit_waits_until_the_window_has_passed_while_others_continue():
    limit = RateLimit(n=3, seconds=10)
    assert [limit.allows("a", now=second) for second in (0, 1, 2, 3)] == [True, True, True, False]
    assert limit.allows("b", now=3)
    assert limit.allows("a", now=10) and not limit.allows("a", now=10.5)


@pytest.mark.parametrize(("cost", "allowed"), [(3, True), (4, False)])
def test_an_expensive_question_counts_several_times(cost, allowed):
    assert RateLimit(n=3, seconds=10).allows("a", cost, now=0) is allowed


def test_the_least_recently_active_visitor_is_forgotten_first():
    limit = RateLimit(n=1, seconds=10)
    for visitor in range(MAX_VISITORS):
        limit.allows(str(visitor), now=0)
    assert not limit.allows("0", now=1)  # makes visitor 1 the least recently active
    assert limit.allows("new", now=1)
    assert limit.allows("1", now=2) and not limit.allows("0", now=2)


@pytest.mark.parametrize(("context_length", "limit"), [(100, 50), (10_000, MAX_TOKENS)])
def test_a_text_may_fill_half_of_the_context(context_length, limit):
    assert token_limit(context_length) == limit


@pytest.mark.parametrize(
    ("address", "visitor"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::7", "2001:db8:1:3::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_a_network_of_ipv6_addresses_is_one_visitor(address, visitor):
    assert visitor_at(address) == visitor
