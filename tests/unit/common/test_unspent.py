"""What is given back of dead holders: never so much that a limit could be passed, whatever was lost on the way."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inferbus import routes
from inferbus.admission.quota.share import Share, releasable
from inferbus.contracts.outstanding import Outstanding
from inferbus.contracts.usage import AMENDED, FINISHED, UsageEvent
from inferbus.ledger.names import request_of, usage_name
from inferbus.ledger.unspent import Unspent

COUNTER = routes.quota("day", "dev", "org-tpd", 20_000)
IN_TIME, TOO_LATE = 20_000 * 86_400.0, 20_001 * 86_400.0
EVENT = UsageEvent(
    request_id="r", tenant="dev", key_id="k1", team="a-b", user="", model="m", pool="m", version="", task="chat",
    lane="interactive", prompt_tokens=3, completion_tokens=4, cached_tokens=0, queue_s=0.0, engine_s=0.0, cost=11,
    price_version="", outcome=FINISHED, trace_id="", at=0.0,
)  # fmt: skip
which = st.integers(0, 1)
parts = st.lists(st.integers(1, 20), min_size=1, max_size=4)


class Holder:
    """One gateway, as far as one counter is concerned. `spent` is by tag, as in the ledger."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.share = Share(limit)
        self.parting = self.recorded = self.charged = 0
        self.out: dict[int, int] = {}
        self.spent: dict[int, int] = {}
        self.next_tag = 1
        self.record: Outstanding | None = None
        self.is_dead = self.is_claimed = False

    @property
    def outstanding(self) -> int:
        return self.share.free + sum(self.out.values())

    @property
    def used(self) -> int:
        """What it holds or may still spend, and what it spent; once it is dead only what was really spent counts."""
        if self.is_dead:
            return sum(self.spent.values()) + sum(self.out.values())
        return self.outstanding + self.charged


class Holders(RuleBasedStateMachine):
    """A counter and gateways whose writes and subtractions arrive, or do not, and that die at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.counter, self.made = 100, 0, 0
        self.holders: list[Holder] = []
        for _ in range(2):
            self.make()

    def make(self) -> None:
        self.made += 1
        self.holders.append(Holder(f"h{self.made}", self.limit))
        self.grant(self.holders[-1], 20)
        self.store(self.holders[-1], stored=True, heard=True)

    def pick(self, n: int, *, dead: bool = False) -> Holder | None:
        found = [one for one in self.holders if one.is_dead == dead and not one.is_claimed]
        return found[n % len(found)] if found else None

    @rule(n=which, need=st.integers(1, 60))
    def lease(self, n: int, need: int) -> None:
        if (one := self.pick(n)) is not None:
            self.grant(one, need)

    def grant(self, one: Holder, need: int) -> None:
        asked = one.share.ask(need, 2)
        self.counter += asked
        self.counter -= one.share.granted(asked, self.counter)

    @rule(n=which, amount=st.integers(1, 40))
    def reserve(self, n: int, amount: int) -> None:
        if (one := self.pick(n)) is not None:
            self.take(one, amount)

    def take(self, one: Holder, amount: int) -> None:
        if one.share.take(amount):
            one.out[one.next_tag] = amount
            one.next_tag += 1

    @rule(n=which, nth=st.integers(0, 9), part=st.integers(0, 40), more=st.integers(0, 9))
    def settle(self, n: int, nth: int, part: int, more: int) -> None:
        """The ledger says what was spent; a gateway may charge more, where it cannot know."""
        if (one := self.pick(n)) is None or not one.out:
            return
        tag = sorted(one.out)[nth % len(one.out)]
        amount = one.out.pop(tag)
        one.spent[tag] = min(part, amount)
        charge = min(amount, one.spent[tag] + more)
        one.charged += charge
        one.share.put(amount - charge)

    @rule(n=which, counted=st.booleans())
    def give_free(self, n: int, counted: bool) -> None:
        """Part with what was not needed; the subtraction of what may go at once arrives, or is lost for ever."""
        if (one := self.pick(n)) is not None:
            one.parting += one.share.tick()
            amount = releasable(one.parting, one.outstanding, one.recorded)
            one.parting -= amount
            self.counter -= amount if counted else 0

    @rule(n=which, stored=st.sampled_from([True, True, True, False]), heard=st.booleans())
    def write(self, n: int, stored: bool, heard: bool) -> None:
        if (one := self.pick(n)) is not None:
            self.store(one, stored=stored, heard=heard)

    def store(self, one: Holder, *, stored: bool, heard: bool) -> None:
        said = one.outstanding
        one.recorded = max(one.recorded, said)
        if stored:
            one.record = Outstanding(next_tag=one.next_tag, open=list(one.out), shares={COUNTER: said})
            one.recorded = said if heard else one.recorded

    @rule(n=which, last=parts, parts=parts, counted=st.booleans(), at_once=st.booleans())
    def die(self, n: int, last: list[int], parts: list[int], counted: bool, at_once: bool) -> None:
        if (one := self.pick(n)) is not None:
            for amount in last:
                self.take(one, amount)
            one.is_dead = True
            self.make()
            if at_once:
                self.give_back(0, parts, counted)

    @rule(n=which, parts=parts, counted=st.booleans())
    def give_back(self, n: int, parts: list[int], counted: bool) -> None:
        """Its work is over, and the ledger has all of it."""
        if (one := self.pick(n, dead=True)) is None:
            return
        for i, (tag, amount) in enumerate(sorted(one.out.items())):
            one.spent[tag] = min(amount, parts[i % len(parts)])
        one.out.clear()
        one.is_claimed = True
        if one.record is None:
            return
        unspent = Unspent(one.name, one.record)
        for holder in self.holders:
            for tag, spent in holder.spent.items():
                if unspent.concerns(usage_name(holder.name, tag)):
                    unspent.count(msgspec.structs.replace(EVENT, prompt_tokens=spent, completion_tokens=0))
        self.counter -= unspent.left(IN_TIME).get(COUNTER, 0) if counted else 0

    @invariant()
    def never_over(self) -> None:
        used = sum(one.used for one in self.holders)
        assert used <= self.limit
        assert used <= self.counter


TestHolders = Holders.TestCase
TestHolders.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)


def test_names_lead_to_requests() -> None:
    assert request_of(usage_name("a1", 7)) == ("a1", 7)
    assert request_of(usage_name("a1", 7) + ":1") == ("a1", 7), "an amendment"
    assert [request_of(name) for name in ("", "usage:a", "usage:a:x", "other:a:7", "usage:a:7:1:2")] == [None] * 5


def record(**shares: int) -> Outstanding:
    names = {
        "org": routes.quota("day", "dev", "org-tpd", 20_000),
        "other": routes.quota("day", "other", "org-tpd", 20_000),
        "key": routes.quota("month", "dev", "key-k1-money", 2026 * 12 + 10),
        "team": routes.quota("day", "dev", "team-a-b-tpd", 20_000),
        "model": routes.quota("day", routes.PLATFORM, "model-x-tpd", 20_000),
    }
    return Outstanding(next_tag=5, open=[2], shares={names[name]: amount for name, amount in shares.items()})


def left_of(unspent: Unspent, now: float = IN_TIME) -> dict[str, int]:
    return {".".join(subject.split(".")[2:4]): amount for subject, amount in unspent.left(now).items()}


def test_what_was_spent_is_left_to_every_limit_it_falls_under() -> None:
    unspent = Unspent("a1", record(org=100, other=100, key=100, team=100, model=100))
    unspent.count(EVENT)
    unspent.count(msgspec.structs.replace(EVENT, outcome=AMENDED, prompt_tokens=-3, completion_tokens=0, cost=-5))
    assert left_of(unspent) == {
        "dev.org-tpd": 93, "other.org-tpd": 100, "dev.key-k1-money": 89, "dev.team-a-b-tpd": 93, "PLATFORM.model-x-tpd": 93,
    }  # fmt: skip
    assert left_of(unspent, TOO_LATE) == {"dev.key-k1-money": 89}, "days are over, the month is not"


def test_only_requests_that_were_not_settled_concern_it() -> None:
    unspent = Unspent("a1", record(org=1))
    found = [tag for tag in range(1, 8) if unspent.concerns(usage_name("a1", tag))]
    assert found == [2, 5, 6, 7]
    assert not unspent.concerns(usage_name("a2", 5))
    assert unspent.tenants == {"dev"}
    assert Unspent("a1", record(org=1, model=1)).tenants == {"*"}


def test_what_a_record_speaks_of_is_not_subtracted() -> None:
    assert releasable(10, kept=0, recorded=10) == 0
    assert releasable(10, kept=4, recorded=10) == 4
    assert releasable(10, kept=40, recorded=10) == 10
    assert releasable(0, kept=-5, recorded=0) == 0
