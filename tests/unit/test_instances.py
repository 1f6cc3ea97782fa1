"""Which instance gets a request: load, weights, priorities, and what instances did to earlier requests."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.clients.instances import Endpoint, Instances, Lease, Outcome, Record

A, B, C = (Record(Endpoint(name, 80)) for name in "abc")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, *records: Record) -> Instances:
    instances = Instances(clock=clock, chance=random.Random(1))
    instances.update(records)
    return instances


def picked(instances: Instances) -> Lease:
    lease = instances.pick()
    assert lease is not None
    return lease


def serve(instances: Instances, count: int, outcome: Outcome = Outcome.ANSWERED) -> Counter[str]:
    """How many of some requests, one after the other, went to which host."""
    found: Counter[str] = Counter()
    for _ in range(count):
        lease = picked(instances)
        found[lease.endpoint.host] += 1
        instances.give_back(lease, outcome)
    return found


def fail(instances: Instances, record: Record, outcome: Outcome) -> None:
    """A request to that instance goes wrong."""
    others = [other for other in instances.endpoints if other != record.endpoint]
    lease = instances.pick(others)
    assert lease is not None
    instances.give_back(lease, outcome)


def test_nobody_to_pick(clock: Clock) -> None:
    """Without records there is no instance."""
    assert make(clock).pick() is None


def test_requests_go_where_fewest_are_in_flight(clock: Clock) -> None:
    """Of two equal instances the one with less to do is picked: their loads differ by one at the most."""
    instances = make(clock, A, B)
    held = Counter(picked(instances).endpoint.host for _ in range(101))
    assert sorted(held.values()) == [50, 51]


@pytest.mark.parametrize("in_flight", [0, 60])
def test_weights_are_respected(clock: Clock, in_flight: int) -> None:
    """An instance with three times the weight gets three times the requests, be they one at a time or many at once."""
    instances = make(clock, A._replace(weight=10), B._replace(weight=30))
    held = [picked(instances) for _ in range(in_flight)]
    found = serve(instances, 4000) if not held else Counter(lease.endpoint.host for lease in held)
    assert found["b"] / found["a"] == pytest.approx(3, rel=0.15)


def test_weight_zero_is_next_to_nothing(clock: Clock) -> None:
    """RFC 2782: among others that have a weight it has a very small chance; if all have none they are equal."""
    assert serve(make(clock, A, B._replace(weight=10)), 2000)["a"] < 20
    assert 850 < serve(make(clock, A, B), 2000)["a"] < 1150


def test_a_higher_priority_number_waits_its_turn(clock: Clock) -> None:
    """Instances of the next priority are used only when none of the first can be, and no longer than that."""
    instances = make(clock, A._replace(priority=1), B._replace(priority=2), C._replace(priority=1))
    assert set(serve(instances, 100)) == {"a", "c"}
    fail(instances, A, Outcome.REFUSED)
    assert set(serve(instances, 100)) == {"c"}
    fail(instances, C, Outcome.REFUSED)
    assert set(serve(instances, 100)) == {"b"}
    clock.now += 11
    assert set(serve(instances, 100)) == {"a", "c"}


@pytest.mark.parametrize(("outcome", "first_s", "most_s"), [(Outcome.REFUSED, 0.5, 10), (Outcome.FAILED, 0.1, 5)])
def test_a_failed_instance_is_tried_again_later_and_later(
    clock: Clock, outcome: Outcome, first_s: float, most_s: float
) -> None:
    """It is left alone at once, for a time that doubles with each failure, up to a limit; an answer brings it back."""
    instances = make(clock, A, B)
    for number in range(1100):
        expected_s = min(first_s * 2.0 ** min(number, 100), most_s)
        fail(instances, A, outcome)
        if number < 12:
            assert set(serve(instances, 20)) == {"b"}
            clock.now += expected_s * 0.49
            assert set(serve(instances, 20)) == {"b"}
        clock.now += expected_s
    assert serve(instances, 200)["a"] > 60


def test_one_request_at_a_time_tries_an_instance_that_failed(clock: Clock) -> None:
    """Until it has answered, all others go elsewhere."""
    instances = make(clock, A, B)
    fail(instances, A, Outcome.REFUSED)
    clock.now += 1
    held = [picked(instances) for _ in range(50)]
    on_trial = [lease for lease in held if lease.endpoint == A.endpoint]
    assert len(on_trial) == 1
    instances.give_back(on_trial[0], Outcome.ANSWERED)
    assert picked(instances).endpoint == A.endpoint


def test_a_trial_that_says_nothing_makes_room_for_the_next(clock: Clock) -> None:
    """A caller who goes away during his trial does not keep the instance out for ever."""
    instances = make(clock, A, B)
    fail(instances, A, Outcome.REFUSED)
    clock.now += 1
    fail(instances, A, Outcome.UNKNOWN)
    assert "a" in serve(instances, 50)


def test_failures_of_the_same_moment_count_once(clock: Clock) -> None:
    """A killed instance fails all its requests at once; that is one failure, and it is soon tried again."""
    instances = make(clock, A, B)
    held = [picked(instances) for _ in range(40)]
    for lease in held:
        instances.give_back(lease, Outcome.FAILED if lease.endpoint == A.endpoint else Outcome.ANSWERED)
    clock.now += 0.1
    assert "a" in serve(instances, 50)


def test_answers_to_what_was_sent_before_prove_nothing(clock: Clock) -> None:
    """An instance that shuts down still answers what it has, but takes no more: that answer does not bring it back."""
    instances = make(clock, A, B)
    held = [picked(instances) for _ in range(2)]
    fail(instances, A, Outcome.REFUSED)
    for lease in held:
        instances.give_back(lease, Outcome.ANSWERED)
    assert set(serve(instances, 20)) == {"b"}


def test_bad_answers_are_better_than_no_connection(clock: Clock) -> None:
    """If all fail, those that answer at all are used; none of them is left alone then, or the rest had all the load."""
    instances = make(clock, A, B, C)
    fail(instances, A, Outcome.FAILED)
    fail(instances, B, Outcome.FAILED)
    fail(instances, C, Outcome.REFUSED)
    held = Counter(picked(instances).endpoint.host for _ in range(40))
    assert held == {"a": 20, "b": 20}


def test_who_is_healthy(clock: Clock) -> None:
    """An instance that fails is not until it has answered again, also when its time is over."""
    instances = make(clock, A, B)
    fail(instances, A, Outcome.FAILED)
    assert instances.any_healthy()
    fail(instances, B, Outcome.REFUSED)
    clock.now += 20
    assert not instances.any_healthy()
    fail(instances, A, Outcome.UNKNOWN)
    assert not instances.any_healthy()
    serve(instances, 20)
    assert instances.any_healthy()


def test_if_nobody_can_be_connected_to_the_next_in_line_is_tried(clock: Clock) -> None:
    """Somebody must find out when the service is back; but who has tried already is told that there is nobody."""
    instances = make(clock, A, B)
    fail(instances, A, Outcome.REFUSED)
    clock.now += 0.3
    fail(instances, B, Outcome.REFUSED)
    lease = picked(instances)
    assert lease.endpoint == A.endpoint
    assert instances.pick([A.endpoint]) is None
    instances.give_back(lease, Outcome.ANSWERED)
    assert set(serve(instances, 20)) == {"a"}


def test_an_update_keeps_what_is_known(clock: Clock) -> None:
    """Who stays keeps his health and his load, who is gone gets nothing more, who is new is used at once."""
    instances = make(clock, A, B)
    held = [picked(instances) for _ in range(10)]
    fail(instances, A, Outcome.REFUSED)
    instances.update([A, C, C])
    assert set(serve(instances, 50)) == {"c"}
    assert instances.endpoints == [A.endpoint, C.endpoint]
    for lease in held:
        instances.give_back(lease, Outcome.ANSWERED)
    instances.update([A, B, C])
    assert set(serve(instances, 50)) == {"b", "c"}


def test_an_instance_with_another_address_is_another_one(clock: Clock) -> None:
    """What is known about a host at its old address says nothing about the new one."""
    instances = make(clock, Record(Endpoint("a", 80, ("10.0.0.1",))), B)
    fail(instances, Record(Endpoint("a", 80, ("10.0.0.1",))), Outcome.REFUSED)
    instances.update([Record(Endpoint("a", 80, ("10.0.0.2",))), B])
    assert "a" in serve(instances, 50)


@given(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_loads_are_as_weights(weights: tuple[int, int], chance: random.Random) -> None:
    """Whatever the weights of two instances, for its weight neither has more in flight than the other by over one."""
    instances = Instances(clock=Clock(), chance=chance)
    instances.update(Record(Endpoint(str(number), 80), 0, weight) for number, weight in enumerate(weights))
    held = Counter(picked(instances).endpoint.host for _ in range(100))
    first, second = (max(weight, 0.01) for weight in weights)
    assert abs(held["0"] / first - held["1"] / second) <= 1 / min(first, second) + 1e-9


class Machine(RuleBasedStateMachine):
    """Requests begin and end, time passes and DNS changes, in any order."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.instances = make(self.clock, A, B)
        self.held: list[Lease] = []
        self.named = {A.endpoint, B.endpoint}
        # Those that have failed and not been heard of since.
        self.failed: set[Endpoint] = set()

    @rule(tried=st.sets(st.sampled_from([A.endpoint, B.endpoint, C.endpoint])))
    def pick(self, tried: set[Endpoint]) -> None:
        lease = self.instances.pick(tried)
        if lease is None:
            # Only if DNS names nobody, or if whoever is left could not be connected to.
            assert tried or not self.named
            assert self.named - tried <= self.failed
            return
        assert lease.endpoint in self.named - tried
        if self.named - tried - self.failed and lease.endpoint in self.failed:
            assert self.clock.now >= lease.instance.out_until
        self.held.append(lease)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def give_back(self, data: st.DataObject, outcome: Outcome) -> None:
        lease = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        counts = (
            lease.ticket == lease.instance.ticket and self.instances._instances.get(lease.endpoint) is lease.instance
        )
        self.instances.give_back(lease, outcome)
        if counts and outcome in (Outcome.FAILED, Outcome.REFUSED):
            self.failed.add(lease.endpoint)
            assert lease.instance.out_until > self.clock.now
        elif counts and outcome is Outcome.ANSWERED:
            self.failed.discard(lease.endpoint)

    @rule(seconds=st.floats(0.01, 20))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(records=st.lists(st.sampled_from([A, B, C, B._replace(priority=1), C._replace(weight=9)])))
    def update(self, records: list[Record]) -> None:
        self.instances.update(records)
        self.named = {record.endpoint for record in records}
        self.failed &= self.named

    @invariant()
    def nothing_is_lost(self) -> None:
        """What is in flight is what was picked and not given back, and nobody is named who is not there."""
        assert set(self.instances.endpoints) == self.named
        for lease in self.held:
            assert lease.instance.in_flight == sum(other.instance is lease.instance for other in self.held)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=30)
