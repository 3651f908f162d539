"""Bad elements to an output of their own, as ``beam.ParDo.with_exception_handling`` gives them, ahead of a combine."""

from collections.abc import Callable
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import PCollection

from .internals import without_unions


class Handled(NamedTuple):
    """What a transform gives, and the elements that were left out of it: (element, (class, message, traceback))."""

    good: Any
    bad: PCollection[Any]


class HandlesExceptions:
    """Of transforms that can say of one element alone whether they would raise."""

    def check(self) -> Callable[[Any], object]:
        """A function, for workers, that raises what the transform would raise for an element."""
        raise NotImplementedError

    def with_exception_handling(self, **options: Any) -> "_CheckFirst":
        """The transform, with a second output for the elements that it would raise for.

        What cannot be told from one element stops the pipeline as ever: targets of an example that do not sum to 1, or
        tables whose key columns differ in type.

        Args:
          options: as of ``beam.ParDo.with_exception_handling``, but for the tags, which are "good" and "bad".

        Returns:
          A transform to (results, bad elements); with ``error_handler`` to the results.

        >>> from lse_stream.beam import LogSumExp
        >>> with beam.Pipeline("FnApiRunner") as pipeline:
        ...     pairs = pipeline | beam.Create([("a", 1.0), ("a", "much"), ("a", 1.0)])
        ...     totals, bad = pairs | LogSumExp.PerKey().with_exception_handling()
        ...     _ = totals | "Total" >> beam.Map(print)
        ...     _ = bad | "Bad" >> beam.MapTuple(lambda pair, error: print(pair, error[1]))
        ('a', 'much') TypeError('expected a real number, found str')
        ('a', 1.6931471805599454)
        """
        return _CheckFirst(self, self.check(), options)


class _CheckFirst(beam.PTransform[PCollection[Any], Any]):
    """A transform of those elements that a check lets through."""

    def __init__(self, transform: Any, check: Callable[[Any], object], options: dict[str, Any]) -> None:
        super().__init__()
        self._transform, self._check, self._options = transform, check, options

    def default_label(self) -> str:
        return str(self._transform.label)

    def expand(self, pcoll: PCollection[Any]) -> Any:
        check = beam.Map(_checked, self._check).with_output_types(without_unions(pcoll.element_type))
        checked: Any = pcoll | "Check" >> check.with_exception_handling(**self._options)
        if isinstance(checked, PCollection):  # an error handler has taken the others
            return checked | self._transform
        good, bad = checked
        return Handled(good | self._transform, bad)


def _checked(element: Any, check: Callable[[Any], object]) -> Any:
    check(element)
    return element
