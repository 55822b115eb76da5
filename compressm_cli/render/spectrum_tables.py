"""``analyze`` as tables: the layers, the orders by threshold, and the model's size at them."""

from compressm_cli.core.quantities import Unit, quantity
from compressm_cli.render.table import BUSY, Footnotes, Table
from compressm_cli.reports import formats
from compressm_cli.reports.sizes import ModelSize
from compressm_cli.reports.spectrum import SpectrumReport

RECURRENCE_ERROR = (
    "Recurrence's error: relative, on the calibration batches, of what the recurrence puts out right after a cut to "
    "this order, weighted by what reaches the layer's output where a gate follows. The layer's own output has other "
    "parts too (the feedthrough D u), so that its error is another one."
)


def spectrum_tables(report: SpectrumReport) -> list[Table]:
    """The layers, the orders by threshold, and the model's size at them."""
    layers = [_layer_table(report), _threshold_table(report)] if report.layers else []
    return [*layers, *([_axis_table(report)] if report.axes else []), _size_table(report)]


def _axis_table(report: SpectrumReport) -> Table:
    rows = [[one.axis, f"{one.size:,}", f"{one.start_size:,}"] for one in report.axes]
    return Table("Axes", ["axis", "units", "at the start"], rows, [])


def _layer_table(report: SpectrumReport) -> Table:
    rows = [
        [
            layer.layer,
            f"{layer.start_order} -> {layer.order}" if layer.start_order != layer.order else str(layer.order),
            f"{layer.hsv[0]:.3g}",
            f"{layer.decay:.1e}",
            "-" if layer.spectral_radius is None else f"{layer.spectral_radius:.6f}",
            "-" if layer.poles is None else f"{layer.real_poles} of {layer.poles}",
        ]
        for layer in report.layers
    ]
    columns = ["layer", "order", "largest HSV", "smallest / largest", "spectral radius", "real poles"]
    real = report.unjudged is None
    notes = [
        f"HSV: Hankel singular values of the {report.realization} realization, "
        f"{formats.summed_gramians(report.gramian, real, report.calibration_batches, horizon)}."
        for horizon in dict.fromkeys(layer.horizon for layer in report.layers if layer.variant is None)
    ]
    variants = {layer.kind: layer.variant for layer in report.layers if layer.variant is not None}
    for kind, variant in variants.items():
        notes.append(
            f"HSV of {kind}: singular values of the Gramians on {report.calibration_batches} "
            f"{'training batches' if real else 'batches of random tokens'}, "
            f"those of the {variant} reduction's surrogate; its poles depend on the input."
        )
    if report.data is not None:
        notes.append(f"Batches of {report.data}.")
    if any(layer.systems > 1 for layer in report.layers):
        notes.append("Layers of several systems: spectra are means over them, poles are those of all.")
    return Table("Layers", columns, rows, notes)


def _threshold_table(report: SpectrumReport) -> Table:
    # All blocks of a model have one kind of layer.
    selective = all(layer.variant is not None for layer in report.layers)
    every = [at for layer in report.layers for at in layer.thresholds]
    bounded = any(at.bound is not None for at in every)
    exceptions = Footnotes()
    rows = [
        [
            layer.layer if i == 0 else "",
            f"{100 * at.energy_threshold:g} %",
            f"{at.values_needed} of {len(layer.hsv)}",
            _order(at.order, at.kernel_order) + (f" {exceptions.mark(at.exception)}" if at.exception else ""),
            formats.percent(at.tail),
            *(("-" if at.bound is None else f"{at.bound:.3g}",) if bounded else ()),
            *(() if bounded else (formats.percent(at.measured_error),)),
            *((formats.percent(at.predicted_error),) if selective else ()),
        ]
        for layer in report.layers
        for i, at in enumerate(layer.thresholds)
    ]
    columns = [
        "layer",
        "energy kept at least",
        "HSV it takes",
        "order",
        "energy discarded",
        "H-infinity error at most" if bounded else "recurrence's error\nmeasured",
        *(("\npredicted",) if selective else ()),
    ]
    notes = ["Orders are those that compress --energy comes to, which keeps as many HSV as fit into them."]
    if not bounded:
        notes.append(RECURRENCE_ERROR)
    if selective:
        notes.append(
            "For layers that depend on their input no H-infinity bound holds; a prediction exists where the decay "
            "is one number a head, and for kept states."
        )
    if any(at.kernel_order not in (None, at.order) for at in every):
        notes.append("In brackets: the order to which mamba-ssm's kernels pad it, so what it costs there.")
    notes += exceptions.lines()
    kind = formats.gramians(report.layers[0].gramian, report.unjudged is None)
    return Table(f"Orders by energy threshold, {kind}", columns, rows, notes)


def _order(order: int, kernel_order: int | None) -> str:
    return str(order) if kernel_order in (None, order) else f"{order} [{kernel_order}]"


def _size_table(report: SpectrumReport) -> Table:
    rows = [
        _size_cells(report.now, report.now),
        *(_size_cells(size, report.now) for size in report.predicted),
    ]
    columns = ["whole model", "states", "parameters", "FLOPs of a sequence", "FLOPs of a training step"]
    notes = [
        f"Counted on models of these orders. A training step has {report.batch_size} sequences, and recurrences in "
        "the form that training on this machine chooses."
    ]
    if report.taught:
        notes.append("Without the passes of the teacher that it learned from, which is not read here.")
    if report.timing is not None:
        columns.append("step here")
        notes.append(
            f"Step here: seconds of a training step (forward, backward, update), measured now on "
            f"{report.timing.device} (CPU threads: {report.timing.threads}), {report.timing.precision}: medians "
            f"of {report.timing.rounds} rounds in alternation, random data without padding."
        )
        if report.timing.busy:
            notes.append(BUSY)
    return Table("Size and cost at these orders", columns, rows, notes)


def _size_cells(size: ModelSize, now: ModelSize) -> list[str]:
    def cell(value: float, before: float, unit: Unit) -> str:
        text = quantity(value, unit)
        return text if size is now else f"{text}  {value / before:.2f}x"

    name = "now" if size.energy_threshold is None else f"at {100 * size.energy_threshold:g} %"
    cells = [
        name,
        cell(size.total_order, now.total_order, "order"),
        cell(size.parameters, now.parameters, "count"),
        cell(size.inference_flops, now.inference_flops, "flops"),
        cell(size.training_step_flops, now.training_step_flops, "flops"),
    ]
    if size.step_seconds is not None and now.step_seconds is not None:
        cells.append(cell(size.step_seconds, now.step_seconds, "seconds"))
    return cells
