"""The rows of a table, each column read as what the layout says that it is."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.columns import Column, Labels, Numbers, Texts, Times
from compressm_cli.data.file_cells import FileCells
from compressm_cli.data.flat import SERIES_ROWS, TEXT_ROWS, FlatRows, Gathered
from compressm_cli.data.long_tables import Grouping, grouped, time_doubts
from compressm_cli.data.padding import are_steps, end_of
from compressm_cli.data.patterns import chosen_columns, files_of
from compressm_cli.data.rows import PAIRED, AsTheyLie, Kind, Rows, lengths_of
from compressm_cli.data.sequences import Sequences
from compressm_cli.data.sources import Form
from compressm_cli.data.sources.audio import recordings_of
from compressm_cli.data.sources.images import ImageRows
from compressm_cli.data.sources.ts import LABEL, SERIES, TARGET
from compressm_cli.data.tables import Table

if TYPE_CHECKING:
    from compressm_cli.data.layout import Layout

CHANNEL = "value"
"""What the channel is called of series that have one alone."""
C = TypeVar("C", bound=Column[Any])


class TableRows:
    """What is read of the files of a table; BadInputError for what cannot be used, with file, row and column."""

    def __init__(self, layout: "Layout", place: str | Sequence[str], labelled: bool) -> None:
        self._layout = layout
        self._place = place if isinstance(place, str) else ", ".join(place)
        series = layout.input_columns if layout.sequence_column is not None else []
        form = Form(layout.header, layout.delimiter, layout.encoding, layout.lengths_column, series)
        files = files_of(place, layout.format)
        self._table = Table.opened(self._place, layout.format, files, form)
        self._wanted: dict[str, Column[Any]] = {}
        self._labels: Labels | None = None
        label, places = layout.label_column, {name: name for name in layout.target_columns or []}
        if layout.format == "ts":
            label, places = (None if places else LABEL), dict.fromkeys(places, TARGET)
        if labelled and label is not None:
            self._labels = self._want(label, Labels())
        if labelled and layout.target_text_column is not None:
            self._labels = self._want(layout.target_text_column, Labels("target text"))
        names = places if labelled and layout.horizon is None else {}
        self._labelled = labelled
        self._filled = 0
        self._targets = {name: self._want(place, self._numbers()) for name, place in names.items()}

    def read(self) -> Rows:
        """All of them, in the order of the files and of the rows in each."""
        layout = self._layout
        if isinstance(layout.text_column, list):
            return self._of_pairs(layout.text_column)
        if layout.text_column is not None:
            texts = self._want(layout.text_column, Texts())
            self._table.read(self._wanted)
            return self._rows("texts", texts.values)
        if layout.image_column is not None or layout.audio_column is not None:
            return self._of_files(layout.kind, layout.input_columns[0])
        if layout.sequence_column is not None or layout.format == "ts":
            return self._of_lists(layout.input_columns or [SERIES])
        names = self._chosen(layout.input_columns)
        if layout.id_column is not None or layout.horizon is not None:
            return self._of_steps(names, [self._want(name, self._numbers()) for name in names])
        return self._of_columns(names)

    def _of_pairs(self, names: list[str]) -> Rows:
        """Two texts a row."""
        columns = [self._want(name, Texts()) for name in names]
        pairs = Gathered(TEXT_ROWS)

        def gather() -> None:
            texts = zip(*(column.drained() for column in columns), strict=True)
            pairs.add([PAIRED.join(pair) for pair in texts])

        self._table.read(self._wanted, gather)
        return self._rows("pairs", pairs.content())

    def _of_columns(self, names: list[str]) -> Rows:
        """Series of one channel, whose steps are columns."""
        columns = [self._want(name, self._numbers(gaps=are_steps(names))) for name in names]
        series = Gathered(SERIES_ROWS)
        ends: list[np.ndarray] = []
        missing: list[tuple[int, int]] = []

        def gather() -> None:
            numbers = np.stack([column.drained() for column in columns], axis=1)
            series.add(list(numbers[:, :, None]))
            own = np.full(len(numbers), len(names))
            if (gaps := np.isnan(numbers)).any():
                own = np.array(list(map(end_of, numbers[:, :, None])))
                gaps &= np.arange(len(names)) < np.maximum(own, 1)[:, None]
                before = sum(map(len, ends))
                missing.extend((before + row, step) for row, step in np.argwhere(gaps)[:1].tolist())
            ends.append(own)

        self._table.read(self._wanted, gather)
        if missing:
            row, step = missing[0]
            raise self._table.error(row, names[step], "the cell is empty or NaN")
        content = self._unfilled(series.content(), np.concatenate(ends), names[0])
        return self._rows("series", content, channels=[CHANNEL], columns=names)

    def _of_files(self, kind: Kind, name: str) -> Rows:
        """Images or recordings, called by their paths."""
        cells = self._want(name, FileCells("image" if kind == "images" else "recording"))
        self._table.read(self._wanted)
        sources, places = [c.source for c in cells.values], [c.place for c in cells.values]
        content = ImageRows(sources, places) if kind == "images" else recordings_of(sources, places)
        rows = self._rows(kind, content)
        return rows if cells.names is None else replace(rows, names=cells.names)

    def _of_lists(self, names: list[str]) -> Rows:
        """Series whose steps are lists, in one cell or in one for each channel."""
        columns = [self._want(name, Sequences(self._layout.lengths_column is None)) for name in names]
        if len(columns) > 1:
            return self._of_channels(names, columns)
        self._table.read(self._wanted)
        series = self._unfilled(columns[0].values, columns[0].ends, names[0])
        width = series[0].shape[1]
        channels = [CHANNEL] if width == 1 else [f"{names[0]}[{number}]" for number in range(1, width + 1)]
        return self._rows("series", series, channels=channels)

    def _of_channels(self, names: list[str], columns: list[Sequences]) -> Rows:
        """Series of which each channel is a list."""
        series = Gathered(SERIES_ROWS)
        number = count()

        def gather() -> None:
            cells = zip(*(column.drained() for column in columns), strict=True)
            series.add([self._joined(next(number), parts, names) for parts in cells])

        self._table.read(self._wanted, gather)
        content = series.content()
        ends = [self._one_end(row, names, columns) for row in range(len(content))]
        rows = self._rows("series", self._unfilled(content, ends, names[0]), channels=names)
        return replace(rows, named=True)

    def _joined(self, row: int, parts: tuple[np.ndarray, ...], names: list[str]) -> np.ndarray:
        """(steps, channels) of the lists of a row, one a channel."""
        for name, part in zip(names, parts, strict=True):
            if part.shape != (len(parts[0]), 1):
                told = f"{len(part)} steps" if part.shape[1] == 1 else "lists within its list"
                raise BadInputError(
                    f"{self._place}, row {row + 1}: column {name!r} has {told}, and {names[0]!r} has {len(parts[0])} "
                    "steps; write a list of as many numbers for each channel"
                )
        return np.concatenate(parts, axis=1)

    def _one_end(self, row: int, names: list[str], columns: list[Sequences]) -> int:
        """Where the lists of a row end; BadInputError where one does before the others."""
        ends = [column.ends[row] for column in columns]
        if min(ends) < max(ends):
            name = names[ends.index(min(ends))]
            raise self._table.error(row, name, f"step {min(ends) + 1}: the number is missing or NaN")
        return ends[0]

    def _unfilled(
        self, series: Sequence[np.ndarray], ends: Sequence[int] | np.ndarray, name: str
    ) -> Sequence[np.ndarray]:
        """Series (steps, channels) without what fills them up; BadInputError where they differ in length with it."""
        lengths, before = lengths_of(series), np.asarray(ends)
        filled = np.flatnonzero(before < lengths).tolist()
        if filled and lengths.min() < lengths.max():
            raise self._table.error(
                filled[0],
                name,
                f"step {ends[filled[0]] + 1}: the number is missing or NaN",
                "where it fills up a series, leave it out: others are shorter than this one, too",
            )
        self._filled = len(filled)
        if not filled:
            return series
        if isinstance(series, AsTheyLie | FlatRows):
            return series.cut(before)
        return [one[:end] for one, end in zip(series, before.tolist(), strict=True)]

    def _of_steps(self, names: list[str], columns: list[Numbers]) -> Rows:
        """Series whose steps are rows of the table."""
        layout = self._layout
        ids = None if layout.id_column is None else self._want(layout.id_column, Labels("id"))
        times = None if layout.time_column is None else self._want(layout.time_column, Times())
        forecast = layout.horizon is not None and self._labelled
        said = {
            name: self._want(name, self._numbers()) for name in (layout.target_columns or names) if forecast
        }
        self._table.read(self._wanted)
        whose = ids.values if ids is not None else [""] * sum(self._table.rows)
        series = grouped(whose, None if times is None else times.values, layout.time_column, self._place)
        doubts = []
        if times is not None:
            doubts = time_doubts(series, times.values, times.days, str(layout.time_column))
        if ids is not None and times is None:
            self._require_of_one_file(series)
        numbers = np.stack([column.values for column in columns], axis=1)
        follows = np.stack([column.values for column in said.values()], axis=1) if said else None
        labels = None
        if self._labels is not None:
            labels = series.one_each(self._labels.values, str(layout.label_column), self._place)
        targets = [series.one_each(c.values, name, self._place) for name, c in self._targets.items()]
        return Rows(
            self._place,
            "series",
            [numbers[rows] for rows in series.rows],
            names=None if ids is None else series.names,
            labels=labels,
            targets=np.array(targets).T if targets else None,
            step_targets=None if follows is None else [follows[rows] for rows in series.rows],
            channels=names,
            named=True,
            files=[source.file.name for source in self._table.sources],
            target_names=[*self._targets, *said] or None,
            warnings=doubts,
        )

    def _numbers(self, gaps: bool = False) -> Numbers:
        return Numbers(comma=self._layout.decimal is not None, gaps=gaps)

    def _require_of_one_file(self, series: Grouping) -> None:
        """BadInputError where steps of several files have one id, and nothing says which come first."""
        starts = np.cumsum(self._table.rows)
        for name, rows in zip(series.names, series.rows, strict=True):
            first, last = np.searchsorted(starts, [rows[0], rows[-1]], side="right").tolist()
            if first != last:
                one, other = (self._table.sources[place].file for place in (first, last))
                raise BadInputError(
                    f"{other}: series {name!r} is in {one} too; name data.time_column if these are the steps of one "
                    "series, else give each an id of its own"
                )

    def _want(self, name: str, column: C) -> C:
        # A column may be wanted twice as the same, such as an input that is forecast.
        self._wanted[name] = column = cast(C, self._wanted.get(name, column))
        return column

    def _chosen(self, patterns: Sequence[str]) -> list[str]:
        """The columns that the inputs are, the same ones in all files."""
        used, first = self._layout.named_columns, self._table.sources[0]
        chosen: list[str] | None = None
        for source in self._table.sources:
            if not source.columns:  # there are no rows in it
                continue
            names = chosen_columns(patterns, source.columns, used, str(source.file))
            if chosen is not None and names != chosen:
                odd = next(iter(set(names) ^ set(chosen)))
                raise BadInputError(
                    f"{source.file}: patterns choose other columns than of {first.file}, such as {odd!r}; give files "
                    "with the same columns"
                )
            chosen = names
        return chosen or []

    def _rows(
        self,
        kind: Kind,
        content: Sequence[bytes] | Sequence[np.ndarray],
        channels: list[str] | None = None,
        columns: list[str] | None = None,
    ) -> Rows:
        """Rows of the table that are rows of the data."""
        labels = None if self._labels is None else self._labels.values
        targets = [column.values for column in self._targets.values()]
        return Rows(
            self._place,
            kind,
            content,
            names=self._table.row_names(),
            labels=labels,
            targets=np.stack(targets, axis=1) if targets else None,
            channels=channels,
            columns=columns,
            unused=[name for name in self._table.sources[0].columns if name not in self._wanted],
            files=[source.file.name for source in self._table.sources],
            target_names=list(self._targets) or None,
            filled=self._filled,
        )
