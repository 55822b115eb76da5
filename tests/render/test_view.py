"""What a run shows: on a terminal, in a log, and at the end."""

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from compressm_cli.engine.view import Beginning, SilentView, View
from compressm_cli.methods.hankel.record import hankel_record
from compressm_cli.objectives import Metric
from compressm_cli.render import plain_view as view_module
from compressm_cli.render import progress as progress_module
from compressm_cli.render.charts import sparkline, spectrum
from compressm_cli.render.live_view import LiveView, render
from compressm_cli.render.plain_view import PlainView, make_view
from compressm_cli.render.progress import Progress, duration, kept_values, short_time, speed_change
from compressm_cli.render.summary_table import summary_table
from compressm_cli.structure.plan import UnitRecord

ORDERS = {"blocks.0.layer": 64, "blocks.1.layer": 64}
SUMMARY: dict[str, Any] = {
    "recipe": "digits",
    "seed": 3,
    "steps": 3000,
    "device": "cpu",
    "test": {"accuracy": 0.953},
    "validation": {"accuracy": 0.949, "best_accuracy": 0.961},
    "orders": {"start": ORDERS, "final": {"blocks.0.layer": 13, "blocks.1.layer": 9}},
    "parameters": {"start": 20000, "final": 9000},
    "flops": {
        "training_start_per_step": 410_000_000,
        "training_final_per_step": 220_000_000,
        "inference_start_per_sequence": 2_000_000,
        "inference_final_per_sequence": 1_100_000,
    },
    "seconds": {"total": 41.0},
    "step_seconds": {"start": 0.0121, "final": 0.0073},
    "joules": {"value": None, "reason": "no counter", "sources": []},
    "peak_memory": {"bytes": 537 * 10**6, "kind": "resident set of the process"},
    "checks": {"made": 4, "cut": 2, "rejected": 1},
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(progress_module, "time", fake)
    monkeypatch.setattr(view_module, "time", fake)
    return fake


def told(
    layer: str, before: int, after: int, reason: str, hsv: list[float], tail: float | None = None
) -> UnitRecord:
    made = hankel_record(layer, before, reason)
    made.after = after
    made.details |= {"hsv": hsv, "realization": "real", "gramian": "analytic", "tail": tail}
    return made


def record(layer: str, before: int, after: int, values: int = 128) -> UnitRecord:
    hsv = [math.exp(-0.1 * i) for i in range(values)]
    kept = values * after // before
    reason = f"cut from {before} to {after}" if after < before else "nothing cut: it is small enough"
    return told(layer, before, after, reason, hsv, sum(hsv[kept:]) / sum(hsv))


def train(view: View | Progress, clock: FakeTime, first: int, last: int, seconds: float) -> None:
    for step in range(first, last + 1):
        clock.now += seconds
        view.step(step, 2.0 / step, 1e-3, seconds)


def cut_run(clock: FakeTime, layers: int = 2) -> Progress:
    progress = Progress(Beginning("digits", 3, 1000, {f"blocks.{i}.layer": 64 for i in range(layers)}, "cpu"))
    train(progress, clock, 1, 100, 0.02)
    progress.evaluation(100, 0.9)
    progress.compression(100, [record(name, 64, 16) for name in progress.orders], "applied")
    train(progress, clock, 101, 200, 0.01)
    return progress


def drawn(progress: Progress, width: int, height: int) -> str:
    console = Console(file=io.StringIO(), record=True, width=width, height=height, force_terminal=True)
    console.print(render(progress, width, height))
    return console.export_text(styles=False).rstrip("\n")


# ---- what the views derive


def test_the_metric_has_its_own_name_and_direction() -> None:
    error = Metric("mse", "mean squared error")
    progress = Progress(Beginning("walks", 0, 10, ORDERS, "cpu", error))
    assert "validation mean squared error" in drawn(progress, 80, 24)
    for step, value in ((2, 0.5), (4, 0.03125), (6, 0.25), (8, None)):
        progress.evaluation(step, value)
    assert "best 0.03125 at step 4" in drawn(progress, 80, 24)


def test_pace_and_step_times_compare_with_before_the_first_cut(fake_time: FakeTime) -> None:
    progress = cut_run(fake_time)
    assert progress.steps_per_second() == pytest.approx(100)
    assert progress.seconds_left() == pytest.approx(8.0)
    assert progress.first_step_seconds() == pytest.approx(0.02)
    assert progress.step_seconds() == pytest.approx(0.01)
    assert len(progress.losses) == 60


def test_without_a_cut_there_is_nothing_to_compare(fake_time: FakeTime) -> None:
    progress = Progress(Beginning("digits", 0, 10, ORDERS, "cpu"))
    assert progress.seconds_left() is None
    train(progress, fake_time, 1, 5, 0.1)
    progress.compression(5, [record("blocks.0.layer", 64, 64)], "nothing")
    assert progress.first_step_seconds() is None
    assert progress.step_seconds() == pytest.approx(0.1)


def test_a_trial_shows_the_cut_orders_until_it_is_undone(fake_time: FakeTime) -> None:
    progress = Progress(Beginning("digits", 0, 100, ORDERS, "cpu"))
    train(progress, fake_time, 1, 20, 0.1)
    records = [record("blocks.0.layer", 64, 16)]
    progress.compression(20, records, "trial")
    assert progress.on_trial
    assert progress.orders == {"blocks.0.layer": 16, "blocks.1.layer": 64}
    assert kept_values(progress.spectra["blocks.0.layer"]) == 32
    progress.compression(25, [told("blocks.0.layer", 16, 16, "still on trial", [])], "nothing")
    assert progress.on_trial
    train(progress, fake_time, 21, 30, 0.1)
    progress.compression(20, records, "rejected")
    assert not progress.on_trial
    assert progress.orders == ORDERS
    assert kept_values(progress.spectra["blocks.0.layer"]) == 128
    train(progress, fake_time, 21, 22, 0.1)
    assert progress.seconds_left() == pytest.approx(7.8)


def test_kept_values_follow_the_discarded_share_where_it_tells() -> None:
    hsv = [1.0, 0.5, 0.25, 0.125]
    # Two complex states of a real realization: three values are kept where one of the poles is real.
    assert kept_values(told("a", 4, 2, "", hsv, 0.125 / sum(hsv))) == 3
    assert kept_values(told("a", 4, 2, "", hsv, 0.9)) == 2
    assert kept_values(told("a", 4, 2, "", hsv)) == 2
    assert kept_values(told("a", 4, 4, "", hsv)) == 4


def test_numbers_read_well() -> None:
    assert [duration(s) for s in (5.4, 75, 3661)] == ["0:05", "1:15", "1:01:01"]
    assert [short_time(s) for s in (1.234, 0.0121, 0.00005)] == ["1.23 s", "12.1 ms", "50 us"]
    assert (speed_change(0.02, 0.01), speed_change(0.01, 0.02)) == ("2.00x faster", "2.00x slower")


# ---- charts


def test_sparkline_spans_the_range_and_keeps_the_newest() -> None:
    assert sparkline([9, 9, 1, 3, 8], 3) == "▁▃█"
    assert sparkline([2.0, 2.0], 5) == "▁▁"
    assert sparkline([1.0, math.nan, 2.0], 5) == "▁█"
    assert sparkline([], 5) == ""


@pytest.mark.parametrize(("values", "kept", "width", "rows"), [(3, 1, 40, 1), (128, 20, 30, 2), (2, 1, 4, 1)])
def test_spectrum_fits_and_divides_what_is_cut(values: int, kept: int, width: int, rows: int) -> None:
    hsv = [10.0**-i for i in range(values)]
    lines = spectrum(hsv, kept, width, rows).plain.split("\n")
    assert len(lines) == rows
    assert all(len(line) <= width and line.count("│") == 1 for line in lines)
    place = lines[0].index("│")
    assert place == pytest.approx(max(1, kept * (len(lines[0]) - 1) / values), abs=1)


def test_spectrum_is_logarithmic_and_undivided_where_all_is_kept() -> None:
    assert spectrum([1.0, 1e-2, 1e-4, 0.0], 4, 10).plain == "█▄▁▁"
    assert spectrum([], 0, 10).plain == ""
    assert spectrum([0.0, 0.0], 2, 10).plain == ""


# ---- the live view


@pytest.mark.parametrize(
    ("width", "height", "layers"), [(80, 24, 2), (80, 24, 12), (60, 20, 3), (110, 50, 6)]
)
def test_the_panel_fits_the_terminal(fake_time: FakeTime, width: int, height: int, layers: int) -> None:
    lines = drawn(cut_run(fake_time, layers), width, height).splitlines()
    assert len(lines) < height
    assert all(cell_len(line) == width for line in lines)


def test_the_panel_shows_all_that_matters_without_colour(fake_time: FakeTime) -> None:
    text = drawn(cut_run(fake_time), 80, 24)
    for part in (
        "digits  seed 3  cpu",
        "200 of 1,000",
        "100.0 steps/s",
        "0:08 left",
        "0.0100",
        "90.0%",
        "20.0 ms before the first cut: 2.00x faster",
        "64 → 16",
        "check at step 100  cut",
        "blocks.0.layer, blocks.1.layer: cut from 64 to 16",
        "│",
    ):
        assert part in text
    assert any(block in text for block in "▂▃▄▅▆▇█")


def test_the_panel_can_be_drawn_before_anything_happened() -> None:
    text = drawn(Progress(Beginning("digits", 0, 10, ORDERS, "cpu")), 80, 24)
    assert "0 of 10" in text
    assert "not known before the first check" in text


def test_markup_in_names_and_reasons_is_shown_as_it_is(fake_time: FakeTime) -> None:
    progress = Progress(Beginning("my[bold]recipe[/bold]", 0, 10, {"[red]x": 4}, "cpu"))
    progress.compression(1, [told("[red]x", 4, 2, "cut [/nonsense]", [1.0, 0.5])], "applied")
    text = drawn(progress, 100, 30)
    for part in ("my[bold]recipe[/bold]", "[red]x", "cut [/nonsense]"):
        assert part in text


def test_a_live_run_ends_with_the_summary_and_the_cursor_back() -> None:
    stream = Terminal()
    view = LiveView(Console(file=stream, width=80, height=24, force_terminal=True))
    tell_a_run(view)
    view.close()
    text = stream.getvalue()
    assert "test accuracy" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_a_live_run_that_breaks_off_gives_the_terminal_back() -> None:
    stream = Terminal()
    view = LiveView(Console(file=stream, width=80, height=24, force_terminal=True))
    view.start(Beginning("digits", 3, 1000, ORDERS, "cpu"))
    view.step(1, 1.0, 1e-3, 0.01)
    view.message("see [this]")
    view.close()
    view.close()
    text = stream.getvalue()
    assert "see [this]" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


# ---- the other views


def tell_a_run(view: View) -> None:
    view.start(Beginning("digits", 3, 1000, ORDERS, "cpu"))
    view.step(1, 2.3, 1e-3, 0.02)
    view.evaluation(50, 0.5, 0.85)
    view.compression(100, [record("blocks.0.layer", 64, 16), record("blocks.1.layer", 64, 64)], "trial")
    view.compression(150, [record("blocks.0.layer", 64, 16), record("blocks.1.layer", 64, 64)], "accepted")
    view.message("a word")
    view.finish(SUMMARY)


def test_plain_lines_are_ascii_and_one_an_event() -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    view.start(Beginning("digits", 3, 1000, ORDERS, "cpu"))
    view.evaluation(50, 0.5, 0.85)
    view.compression(100, [record("blocks.0.layer", 64, 16), record("blocks.1.layer", 64, 64)], "trial")
    view.message("a word")
    assert stream.getvalue().isascii()
    assert stream.getvalue().splitlines() == [
        "digits, seed 3: 1,000 steps on cpu; orders: blocks.0.layer 64, blocks.1.layer 64",
        "step 50/1,000  validation loss 0.5000, accuracy 85.0%",
        "step 100/1,000  check: cut, on trial (blocks.0.layer: cut from 64 to 16; "
        "blocks.1.layer: nothing cut: it is small enough)",
        "a word",
    ]


def test_plain_lines_about_steps_come_every_five_seconds(fake_time: FakeTime) -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    view.start(Beginning("digits", 3, 1000, ORDERS, "cpu"))
    train(view, fake_time, 1, 130, 0.125)
    lines = stream.getvalue().splitlines()[1:]
    assert len(lines) == 3
    assert lines[0].startswith(
        "step 40/1,000  loss 0.0500, learning rate 1.00e-03, 125.0 ms a step, 2:00 left"
    )


def test_the_summary_compares_start_and_final() -> None:
    stream = io.StringIO()
    PlainView(stream).finish(SUMMARY)
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    for row in (
        "digits, seed 3, 3,000 steps on cpu",
        "test accuracy 95.3%",
        "order of blocks.0.layer 64 13 0.20x",
        "parameters 20,000 9,000 0.45x",
        "time of a step 12.1 ms 7.3 ms 1.66x faster",
        "joules not measured",
        "peak memory 537 MB",
        "checks 4 2 cut, 1 undone",
    ):
        assert row in lines


def test_the_summary_adds_up_many_layers_and_leaves_out_unknown_step_times() -> None:
    many = {f"blocks.{i}.layer": 64 for i in range(24)}
    summary = SUMMARY | {
        "orders": {"start": many, "final": dict.fromkeys(many, 16)},
        "step_seconds": {"start": None, "final": None},
    }
    stream = io.StringIO()
    PlainView(stream).finish(summary)
    text = " ".join(stream.getvalue().split())
    assert "orders of 24 layers, summed 1,536 384 0.25x" in text
    assert "time of a step" not in text


def test_the_summary_tells_other_axes_that_were_cut() -> None:
    axes = {"start": {"states": 64, "heads": 4, "units": 24}, "final": {"states": 9, "heads": 4, "units": 12}}
    stream = io.StringIO()
    PlainView(stream).finish({**SUMMARY, "axes": axes})
    text = " ".join(stream.getvalue().split())
    assert "units, all 24 12 0.50x" in text
    assert "heads, all" not in text
    assert "states, all" not in text


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    tell_a_run(SilentView())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("stream", "term", "kind"),
    [
        (Terminal, "xterm-256color", LiveView),
        (Terminal, "dumb", PlainView),
        (io.StringIO, "xterm", PlainView),
    ],
)
def test_the_view_fits_the_stream(
    stream: Callable[[], io.StringIO], term: str, kind: type[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", term)
    assert isinstance(make_view(stream()), kind)


def test_a_terminal_without_block_characters_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")

    class Ascii(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    raw = io.BytesIO()
    stream = Ascii(raw, encoding="ascii")
    view = make_view(stream)
    assert isinstance(view, PlainView)
    tell_a_run(view)
    assert b"test accuracy" in raw.getvalue()


def test_no_metric_is_in_the_last_table_twice() -> None:
    primary = {"name": "accuracy", "title": "accuracy", "higher_is_better": True, "unit": "share"}
    test = {"accuracy": 0.953, "macro_f1": 0.94}
    table = summary_table({**SUMMARY, "objective": "classification", "primary": primary, "test": test})
    names = list(table.columns[0].cells)
    assert [str(name) for name in names if "test" in str(name)] == ["test accuracy", "test macro-F1"]
