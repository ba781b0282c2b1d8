"""The delta protocol, one type on one stream: rules of the xDS specification and what we add (bisection)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.xds.cache import View, XdsResource
from controlplane.xds.node import CLUSTER, LISTENER, SECRET
from controlplane.xds.subscription import Response, Subscription
from extauthz.wire import discovery_pb2 as wire

VIEWS = iter(range(1, 10_000_000))


def view(removing: bool = True, **versions: str) -> View:
    resources = {name: XdsResource(name=name, version_info=version, value=version.encode()) for name, version in versions.items()}
    return View(sequence=next(VIEWS), revision=1, resources={CLUSTER: resources}, removing=removing)


class Node:
    """The other side of a subscription: what a well-behaved node holds."""

    def __init__(self) -> None:
        self.subscription = Subscription(CLUSTER)
        self.holds: dict[str, str] = {}
        self.nonces = iter(range(1, 1_000_000))

    def asks(self, *names: str, unsubscribe: Iterable[str] = (), initial: dict[str, str] | None = None) -> None:
        self.subscription.receive(
            wire.DeltaDiscoveryRequest(
                type_url=CLUSTER,
                resource_names_subscribe=names,
                resource_names_unsubscribe=list(unsubscribe),
                initial_resource_versions=initial or {},
            )
        )

    def gets(self, now: View) -> Response | None:
        response = self.subscription.next_response(now)
        if response is not None:
            response.nonce = str(next(self.nonces))
            self.subscription.sending(response)
        return response

    def must_get(self, now: View) -> Response:
        response = self.gets(now)
        assert response is not None
        return response

    def acks(self, response: Response) -> None:
        self.holds.update({resource.name: resource.version_info for resource in response.changed})
        for name in response.removed:
            self.holds.pop(name, None)
        self.subscription.receive(wire.DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce=response.nonce))

    def nacks(self, response: Response, message: str = "no") -> None:
        request = wire.DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce=response.nonce)
        request.error_detail.message = message
        self.subscription.receive(request)


def names_of(response: Response | None) -> list[str]:
    assert response is not None
    return [resource.name for resource in response.changed]


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_first_request_without_names_is_the_wildcard(node: Node) -> None:
    node.asks()

    assert names_of(node.gets(view(a="1", b="1"))) == ["a", "b"]


def test_only_what_changed_is_sent_again(node: Node) -> None:
    node.asks("*")
    response = node.gets(view(a="1", b="1"))
    assert response is not None
    node.acks(response)

    assert names_of(node.gets(view(a="1", b="2"))) == ["b"]


def test_what_is_gone_is_said_to_be_removed(node: Node) -> None:
    node.asks("*")
    node.acks(node.must_get(view(a="1", b="1")))

    response = node.gets(view(a="1"))

    assert response is not None
    assert (response.changed, response.removed) == ([], ["b"])


def test_nothing_is_removed_while_the_view_says_so(node: Node) -> None:
    node.asks("*", initial={"old": "1", "a": "1"})

    assert node.gets(view(removing=False, a="1")) is None
    assert node.gets(view(a="1")) is not None


def test_a_listener_that_is_gone_is_removed_whatever_the_view_says() -> None:
    def listening(*names: str) -> View:
        named = {name: XdsResource(name=name, version_info="1", value=b"") for name in names}
        return View(sequence=next(VIEWS), revision=1, resources={LISTENER: named}, removing=False)

    subscription = Subscription(LISTENER)
    subscription.receive(wire.DeltaDiscoveryRequest(type_url=LISTENER, initial_resource_versions={"old": "1", "a": "1"}))
    assert not subscription.holds(listening("a"))
    response = subscription.next_response(listening("a"))
    assert response is not None
    assert (response.changed, response.removed) == ([], ["old"])
    response.nonce = "1"
    subscription.sending(response)
    subscription.receive(wire.DeltaDiscoveryRequest(type_url=LISTENER, response_nonce="1"))
    assert subscription.holds(listening("a"))


def test_what_the_node_already_holds_after_a_reconnect_is_not_sent(node: Node) -> None:
    node.asks("*", initial={"a": "1", "b": "0", "gone": "1"})

    response = node.gets(view(a="1", b="1"))

    assert names_of(response) == ["b"]
    assert response is not None
    assert response.removed == ["gone"]


def test_a_named_subscription_gets_its_names_only(node: Node) -> None:
    node.asks("a")

    assert names_of(node.gets(view(a="1", b="1"))) == ["a"]


def test_an_unknown_name_is_answered_as_removed_once(node: Node) -> None:
    node.asks("ghost")

    response = node.gets(view(a="1"))
    assert response is not None
    assert response.removed == ["ghost"]
    node.acks(response)
    assert node.gets(view(a="1")) is None


def test_an_unknown_name_is_sent_when_it_appears(node: Node) -> None:
    node.asks("ghost")
    node.acks(node.must_get(view()))

    assert names_of(node.gets(view(ghost="1"))) == ["ghost"]


def test_a_name_subscribed_again_is_sent_again(node: Node) -> None:
    node.asks("a")
    node.acks(node.must_get(view(a="1")))

    node.asks("a")

    assert names_of(node.gets(view(a="1"))) == ["a"]


def test_an_unsubscribed_name_is_sent_no_more(node: Node) -> None:
    node.asks("a", "b")
    node.acks(node.must_get(view(a="1", b="1")))

    node.asks(unsubscribe=["b"])

    assert node.gets(view(a="1", b="2")) is None
    assert node.subscription.holds(view(a="1")) is True


def test_unsubscribing_a_name_under_the_wildcard_is_answered(node: Node) -> None:
    node.asks("*", "ghost")
    node.acks(node.must_get(view(a="1")))

    node.asks(unsubscribe=["ghost"])

    response = node.gets(view(a="1"))
    assert response is not None
    assert response.removed == ["ghost"]


def test_leaving_the_wildcard_keeps_named_subscriptions(node: Node) -> None:
    node.asks("*", "a")
    node.acks(node.must_get(view(a="1", b="1")))

    node.asks(unsubscribe=["*"])

    assert node.gets(view(a="1", b="2")) is None
    assert names_of(node.gets(view(a="2", b="2"))) == ["a"]


def test_a_stale_nonce_still_changes_the_subscription(node: Node) -> None:
    node.asks("a")
    node.gets(view(a="1", b="1"))

    node.subscription.receive(wire.DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce="stale", resource_names_subscribe=["b"]))

    assert node.subscription.pending is not None
    assert node.subscription.names == {"a", "b"}


def test_while_an_answer_is_awaited_changes_are_sent_once_in_their_newest_form(node: Node) -> None:
    node.asks("*")
    first = node.gets(view(a="1"))
    assert first is not None

    assert node.gets(view(a="2")) is None
    assert node.gets(view(a="3")) is None
    node.acks(first)

    response = node.gets(view(a="3"))
    assert response is not None
    assert [resource.version_info for resource in response.changed] == ["3"]


def test_one_refused_resource_is_not_sent_again_until_it_changes(node: Node) -> None:
    node.asks("*")
    node.nacks(node.must_get(view(a="bad")), "broken")

    assert node.gets(view(a="bad")) is None
    assert node.subscription.rejected["a"].message == "broken"
    assert names_of(node.gets(view(a="good"))) == ["a"]


def test_an_accepted_successor_clears_the_refusal(node: Node) -> None:
    node.asks("*")
    node.nacks(node.must_get(view(a="bad")))
    node.acks(node.must_get(view(a="good")))

    assert node.subscription.rejected == {}
    assert node.subscription.error == ""


def test_after_a_refusal_the_last_good_form_is_not_sent_again(node: Node) -> None:
    node.asks("*")
    node.acks(node.must_get(view(a="good")))
    node.nacks(node.must_get(view(a="bad")))

    assert node.gets(view(a="good")) is None
    assert node.subscription.holds(view(a="good"))


@given(st.integers(1, 30), st.data())
def test_bisection_finds_every_bad_resource_and_delivers_every_good_one(count: int, data: st.DataObject) -> None:
    names = [f"r{number}" for number in range(count)]
    bad = data.draw(st.sets(st.sampled_from(names)))
    node = Node()
    node.asks("*")
    now = view(**dict.fromkeys(names, "1"))

    rounds = 0
    while (response := node.gets(now)) is not None:
        rounds += 1
        assert rounds < 200
        if bad.isdisjoint(names_of(response)):
            node.acks(response)
        else:
            node.nacks(response)

    assert set(node.subscription.rejected) == bad
    assert set(node.holds) == set(names) - bad


NAMES = st.sampled_from(["a", "b", "c", "d"])
VERSIONS = st.dictionaries(NAMES, st.sampled_from(["1", "2", "3"]))
STEPS = st.lists(
    st.one_of(
        VERSIONS.map(lambda versions: ("view", versions)),
        st.just(("ack", None)),
        st.sets(NAMES, min_size=1).map(lambda names: ("subscribe", names)),
        st.sets(NAMES, min_size=1).map(lambda names: ("unsubscribe", names)),
    ),
    max_size=30,
)


@given(st.booleans(), STEPS)
def test_whatever_happens_a_node_that_answers_ends_up_with_what_it_asked_for(wildcard: bool, steps: list[tuple[str, object]]) -> None:
    node = Node()
    node.asks("*" if wildcard else "a")
    asked = set() if wildcard else {"a"}
    now = view()
    outstanding: Response | None = None
    for what, argument in steps:
        if what == "view":
            now = view(**argument)  # type: ignore[arg-type]
        elif what == "ack" and outstanding is not None:
            node.acks(outstanding)
            outstanding = None
        elif what == "subscribe":
            asked |= argument  # type: ignore[operator]
            node.asks(*sorted(argument))  # type: ignore[call-overload]
        elif what == "unsubscribe":
            gone = argument & asked  # type: ignore[operator]
            asked -= gone
            node.asks(unsubscribe=sorted(argument))  # type: ignore[call-overload]
            if not wildcard:
                for name in gone:
                    node.holds.pop(name, None)
        outstanding = node.gets(now) or outstanding
    while outstanding is not None:
        node.acks(outstanding)
        outstanding = node.gets(now)

    available = {name: resource.version_info for name, resource in now.resources[CLUSTER].items()}
    expected = available if wildcard else {name: version for name, version in available.items() if name in asked}
    held = node.holds if wildcard else {name: version for name, version in node.holds.items() if name in asked}
    assert held == expected


# secrets


class Envoy(Node):
    """A node that subscribes to secrets."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.subscription = Subscription(SECRET)
        self.asks(*names)


def secrets(**versions: str) -> View:
    resources = {name: XdsResource(name=name, version_info=version, value=version.encode()) for name, version in versions.items()}
    return View(sequence=next(VIEWS), revision=1, resources={SECRET: resources})


def test_secrets_are_sent_by_name_only() -> None:
    envoy, curious = Envoy("a"), Envoy()
    curious.asks("*")

    assert [resource.name for resource in envoy.must_get(secrets(a="1", b="1")).changed] == ["a"]
    assert curious.gets(secrets(a="1", b="1")) is None


def test_a_secret_is_never_taken_from_an_envoy() -> None:
    envoy = Envoy("a")
    envoy.acks(envoy.must_get(secrets(a="1")))

    assert envoy.gets(secrets(b="1")) is None
    assert envoy.subscription.holds(secrets())


def test_after_a_refused_secret_the_last_good_one_is_sent_before_anything_else() -> None:
    envoy = Envoy("certificate", "clients")
    envoy.acks(envoy.must_get(secrets(certificate="1", clients="1")))

    envoy.nacks(envoy.must_get(secrets(certificate="bad", clients="1")))
    now = secrets(certificate="bad", clients="2")
    healing = envoy.must_get(now)
    envoy.acks(healing)
    after = envoy.must_get(now)
    envoy.acks(after)

    assert [(r.name, r.version_info) for r in healing.changed] == [("certificate", "1")]
    assert [(r.name, r.version_info) for r in after.changed] == [("clients", "2")]
    assert envoy.subscription.rejected["certificate"].version_info == "bad"
    assert envoy.gets(now) is None


def test_of_two_refused_secrets_each_is_healed_before_the_next_attempt() -> None:
    envoy = Envoy("certificate", "clients")
    envoy.acks(envoy.must_get(secrets(certificate="1", clients="1")))
    now = secrets(certificate="bad", clients="2")
    sent: list[list[tuple[str, str]]] = []

    while (response := envoy.gets(now)) is not None:
        sent.append([(r.name, r.version_info) for r in response.changed])
        if ("certificate", "bad") in sent[-1]:
            envoy.nacks(response)
        else:
            envoy.acks(response)

    assert sent == [
        [("certificate", "bad"), ("clients", "2")],
        [("certificate", "1")],
        [("clients", "1")],
        [("certificate", "bad")],
        [("certificate", "1")],
        [("clients", "2")],
    ]
    assert envoy.subscription.acked == {"certificate": "1", "clients": "2"}


def test_a_refused_healing_refuses_nothing_new() -> None:
    envoy = Envoy("certificate")
    envoy.acks(envoy.must_get(secrets(certificate="1")))
    envoy.nacks(envoy.must_get(secrets(certificate="bad")))

    envoy.nacks(envoy.must_get(secrets(certificate="bad")))

    assert envoy.subscription.rejected["certificate"].version_info == "bad"
    assert envoy.gets(secrets(certificate="bad")) is None
    assert [r.version_info for r in envoy.must_get(secrets(certificate="2")).changed] == ["2"]
