"""What tests on engines share."""

from collections.abc import Iterator

import pytest
from programs import home

from engines.kafka_on_flink import KafkaOnFlink, kafka_on_flink


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaOnFlink]:
    """A broker, and a Flink cluster that reads it."""
    for name in ("kafka", "flink"):
        home(name)
    with kafka_on_flink(tmp_path_factory.mktemp("engines")) as running:
        yield running
