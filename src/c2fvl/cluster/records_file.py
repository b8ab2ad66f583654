"""The records of all images in one Parquet file, `predictions.parquet`. No torch."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from c2fvl.files import storage

NAME = "predictions.parquet"
_ROWS = 1000
"""Of a group of rows; so many records are held in memory."""


class RecordsFile:
    """Takes records in any order and writes them in groups."""

    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer, self._schema = writer, schema
        self._rows: list[dict[str, Any]] = []

    def add(self, index: int, record: dict[str, Any]) -> None:
        """Take in the record of the image with this place in the list, counted from 0."""
        ood, is_failed = record.get("ood"), "error" in record
        self._rows.append(
            {
                "index": index,
                "image": record["image"],
                "status": "failed" if is_failed else "done",
                "reason": record.get("error", ""),
                "files": record.get("files", []),
                "height": record.get("height"),
                "width": record.get("width"),
                "area": record.get("area"),
                "area_mm2": record.get("area_mm2"),
                "volume_ml": record.get("volume_ml"),
                "estimated_dice": record.get("estimated_dice"),
                "is_in_distribution": None if ood is None else ood["is_in_distribution"],
                "record": json.dumps({name: value for name, value in record.items() if name != "skipped"}),
            }
        )
        if len(self._rows) == _ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the records that are held as one group of rows."""
        import pyarrow

        if self._rows:
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()


@contextmanager
def records_file(folder: Path) -> Iterator[RecordsFile]:
    """Yield a `RecordsFile`; on success it becomes `predictions.parquet` in `folder`, else there is none."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(
        [
            ("index", pyarrow.int64()), ("image", pyarrow.string()), ("status", pyarrow.string()),
            ("reason", pyarrow.string()), ("files", pyarrow.list_(pyarrow.string())), ("height", pyarrow.int32()),
            ("width", pyarrow.int32()), ("area", pyarrow.int64()), ("area_mm2", pyarrow.float64()),
            ("volume_ml", pyarrow.float64()), ("estimated_dice", pyarrow.float64()),
            ("is_in_distribution", pyarrow.bool_()), ("record", pyarrow.string()),
        ]
    )  # fmt: skip
    with storage.new_file(folder / NAME) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        records = RecordsFile(writer, schema)
        yield records
        records.flush()
