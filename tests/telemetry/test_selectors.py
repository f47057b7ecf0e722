from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import ConfigError
from telemetry.selectors import Matcher, Selector, predicate
from telemetry.types import SeriesKey

KEY = SeriesKey.of("tx07", "irq_total", cpu=3, irq=42, name="eth0-rx-1")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", True),
        ("irq_total", True),
        ("irq_total{}", True),
        ('irq_total{cpu="3"}', True),
        ("irq_total{cpu=3}", True),
        ('{cpu="3"}', True),
        ('metric=~"irq_.*",cpu="3"', True),
        ('metric=~"irq"', False),  # a regular expression must match the whole
        ('host!="tx07"', False),
        ('host="tx07",name!~"eth.*"', False),
        ('name=~"eth\\d-rx-\\d+"', True),
        ('queue=""', True),  # an absent label is empty
        ('queue!=""', False),
        ("irq_total{cpu!=3}", False),
        ("softirq_total", False),
    ],
)
def test_meaning(text: str, meant: bool) -> None:
    assert Selector.parse(text).matches(KEY) is meant


@pytest.mark.parametrize("text", ['cpu="3', "cpu", "3=4", 'cpu=~"("', "cpu==3", 'a="1" b="2"', 'irq_total{cpu="3"'])
def test_refuses(text: str) -> None:
    if text == "cpu":  # a bare word is a metric
        assert not Selector.parse(text).matches(KEY)
        return
    with pytest.raises(ConfigError):
        Selector.parse(text)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b_1"]), st.sampled_from(["=", "!="]), st.text(max_size=8)), max_size=3)
)
def test_text_reads_back(parts: list[tuple[str, str, str]]) -> None:
    selector = Selector(tuple(Matcher(*p) for p in parts))
    assert Selector.parse(str(selector)) == selector


def test_pruning_never_hides_what_matches() -> None:
    selector = Selector.parse('host="tx07",cpu="9"')
    assert selector.may_match(host="tx07", metric="irq_total")
    assert not selector.may_match(host="tx08", metric="irq_total")


def test_any_of_several() -> None:
    wanted, selectors = predicate(["softirq_total", Selector.parse("cpu=3")])
    assert wanted is not None
    assert len(selectors) == 2
    assert wanted(KEY)
    assert predicate(None) == (None, ())
