"""Makes digits_logits.parquet: what a classifier says of handwritten digits that it has not seen.

``pip install scikit-learn && python -m pipelines.samples.make_digits``
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent

SCHEMA = pa.schema({"image": pa.int16(), "label": pa.int8(), "logits": pa.list_(pa.float32(), 10)})


def make(folder: Path = FOLDER) -> None:
    """A multinomial logistic regression learns from the even images; its logits of the odd ones are written."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=10_000, tol=1e-8).fit(images[::2] / 16.0, labels[::2])
    logits = model.decision_function(images[1::2] / 16.0)
    columns = [range(1, len(labels), 2), labels[1::2], list(logits)]
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )
    pq.write_table(table, folder / "digits_logits.parquet", compression="zstd", use_dictionary=False)


if __name__ == "__main__":
    make()
