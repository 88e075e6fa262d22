"""The ring's world under any seed and size."""

from hypothesis import given, settings
from hypothesis import strategies as st

from producers.sources.ring_truth import tell
from producers.sources.scenario import Parameters, RingScenario, World
from tests import oracle

worlds = st.builds(
    Parameters,
    seed=st.integers(0, 1 << 40),
    start_ms=st.integers(0, 1 << 41),
    days=st.integers(1, 3),
    events=st.integers(0, 1_500),
    trap_hits=st.integers(0, 300),
    capture_share=st.floats(1e-6, 1),
    senders=st.integers(10, 60),
    bots=st.integers(10, 60),
)


@given(worlds)
@settings(max_examples=12, deadline=None)
def test_the_truth_is_what_the_oracle_counts(parameters: Parameters) -> None:
    world = World(parameters)
    records = [record for batch in RingScenario(world).read(None) for record in batch.records]
    counted = oracle.count((record, 1 << 46) for record in records)
    truth = tell(world)
    assert not counted.refused
    assert counted.totals == truth.entities
    assert counted.events == truth.events == parameters.events + parameters.trap_hits
    assert sum(truth.ring.true_copies_by_hour) == truth.ring.true_copies


@given(worlds, st.integers(60_000, 86_400_000), st.data())
@settings(max_examples=12, deadline=None)
def test_a_killed_run_and_its_successor_write_what_one_run_writes(
    parameters: Parameters, span_ms: int, data: st.DataObject
) -> None:
    world = World(parameters)
    whole = list(RingScenario(world, span_ms).read(None))
    if whole:
        killed_after = data.draw(st.integers(0, len(whole) - 1))
        rest = list(RingScenario(world, span_ms).read(whole[killed_after].position))
        assert whole[: killed_after + 1] + rest == whole
