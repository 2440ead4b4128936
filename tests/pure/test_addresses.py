"""Which hosts a target means, and which hosts count as one."""

import pytest

from mpchat.ipc.addresses import covers, owner_of, owner_of_client


@pytest.mark.parametrize(
    ("target", "host", "covered"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.70", False),
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("2001:db8::/48", "2001:db8:0:ffff::1", True),
        ("2001:db8::/48", "2001:db8:1::1", False),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "192.0.2.7", False),
        ("192.0.2.0/24", "alice", False),
        ("a/b", "192.0.2.7", False),
    ],
)
def test_a_target_means_a_host_or_the_hosts_of_a_network(target: str, host: str, covered: bool) -> None:
    assert covers(target, host) is covered


def test_a_network_of_64_bits_is_one_owner_and_an_address_of_ipv4_is_one() -> None:
    assert owner_of("2001:db8::1") == owner_of("2001:db8::ffff:1:2:3")
    assert owner_of("2001:db8::1") != owner_of("2001:db8:0:1::1")
    assert owner_of("fe80::1%eth0") == owner_of("fe80::2%eth0")
    assert owner_of("192.0.2.7") == "192.0.2.7"
    assert owner_of("::1%") == owner_of("::1")
    assert owner_of("no:address") == "no:address"


def test_the_owner_of_a_client_is_that_of_its_host() -> None:
    assert owner_of_client("192.0.2.7:4000") == "192.0.2.7"
    assert owner_of_client("[2001:db8::1]:4000") == owner_of("2001:db8::2")
