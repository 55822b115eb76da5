"""Which cases belong to every run of the tests, and which only to exhaustive ones.

An everyday run sees each mechanism at work. Exhaustive cases show the same with further layers, moments and numbers of
processes, or take interpreters of their own: ``pytest --cases all`` runs them too, as continuous integration does.
"""

from collections.abc import Collection, Iterable

import pytest

CHOICES = ("everyday", "exhaustive", "all")

EXHAUSTIVE: dict[str, Collection[str]] = {
    "cli/test_cli_bench.py::test_a_real_machine": (),
    "cli/test_cli_completion.py::test_in_a_real_shell": (
        "compressm train-",
        "compressm bench mine.yaml --device cuda-",
    ),
    "cli/test_cli_compress.py::test_analyze_measures_what_a_cut_would_cost": ("mamba2",),
    "cli/test_cli_streams.py::test_a_run_goes_on_when_its_terminal_is_gone": (),
    "cli/test_cli_streams.py::test_a_run_is_trained_to_its_end_whoever_reads": (),
    "cli/test_cli_streams.py::test_a_run_is_trained_to_its_end_without_any_stream": (),
    "cli/test_cli_streams.py::test_a_size_that_nothing_can_be_shown_in_counts_as_not_given": (),
    "cli/test_cli_streams.py::test_every_command_prints_in_any_encoding": (),
    "cli/test_cli_streams.py::test_results_that_cannot_be_printed_are_told": ("full",),
    "conformance/test_conformance.py::test_reloads_with_identical_outputs_in_a_fresh_process": (),
    "conformance/test_conformance.py::test_saves_and_resumes_bit_equal": (
        "7-lru-hankel",
        "7-s5-magnitude",
        "7-mamba2-hankel",
        "7-mamba-none",
        "7-lru-random",
    ),
    "conformance/test_conformance.py::test_trains_to_the_end": (
        "lru-hankel",
        "s5-magnitude",
        "mamba2-hankel",
        "mamba-none",
        "lru-random",
        "gla-hankel",
    ),
    "conformance/test_conformance.py::test_what_is_undone_leaves_no_trace": (
        "lru-hankel",
        "s5-magnitude",
        "mamba2-hankel",
        "mamba-none",
        "lru-random",
    ),
    "conformance/test_model_conformance.py::test_a_cut_that_is_undone_leaves_no_trace": (
        "decoder: hybrid",
        "vit",
        "encoder_decoder: vaswani",
    ),
    "conformance/test_model_conformance.py::test_reloads_and_exports_with_identical_outputs": (
        "decoder: gpt2",
        "vit",
        "encoder_decoder: vaswani",
    ),
    "conformance/test_model_conformance.py::test_resumes_bit_equal_between_two_cuts": (
        "decoder: hybrid",
        "encoder",
        "vit",
        "encoder_decoder: vaswani",
    ),
    "exchange/test_saving_folders.py::test_what_is_saved_is_the_network": (
        "llama-None-False",
        "llama-2-True",
        "gpt2-None-True",
    ),
    "structure/test_discovery.py::test_a_cut_of_what_is_found_is_the_same_as_silence": (
        "llama",
        "gpt2",
        "resnet",
        "unet",
        "mobilenet",
        "crossed",
        "branches",
    ),
    "structure/test_discovery.py::test_every_unit_counts": (
        "llama",
        "gpt2",
        "resnet",
        "unet",
        "mobilenet",
        "crossed",
        "branches",
    ),
    "structure/test_discovery.py::test_which_axes_are_found": (
        "llama",
        "gpt2",
        "resnet",
        "unet",
        "mobilenet",
        "crossed",
        "branches",
    ),
    "data/test_data_large.py::test_memory_is_taken_for_a_part_alone": (),
    "data/test_data_tasks.py::test_importing_the_tasks_is_light": (),
    "engine/test_engine_budget.py::test_a_resumed_run_ends_bit_equal": ("1.0-True",),
    "engine/test_engine_calibration.py::test_a_cut_passes_no_more_rows_at_once_than_training": (),
    "engine/test_engine_forecast.py::test_a_model_in_parts_takes_a_share_of_what_stays": (),
    "engine/test_engine_forecast.py::test_what_a_dry_run_tells_is_what_is_alive": ("16-lru",),
    "engine/test_engine_hooks.py::test_blocks_that_leave_and_come_survive_a_kill": ("9",),
    "engine/test_engine_hooks.py::test_what_is_parked_masked_and_frozen_survives_a_kill": (
        "11",
        "18",
    ),
    "engine/test_engine_hooks.py::test_who_does_nothing_changes_nothing": ("Nothing",),
    "engine/test_engine_longer.py::test_a_run_made_longer_ends_like_one_that_was_as_long_from_the_start": (
        "None",
    ),
    "engine/test_engine_longer.py::test_an_unfinished_run_is_made_longer": ("20",),
    "engine/test_engine_loop.py::test_a_forecast_is_what_the_run_then_finds": ("auto",),
    "engine/test_engine_loop.py::test_the_seed_decides_everything": ("empirical",),
    "engine/test_engine_objectives.py::test_a_cut_goes_by_the_error_and_a_resumed_run_ends_bit_equal": (
        "regression-0.0",
        "forecasting-1000000.0",
    ),
    "engine/test_engine_objectives.py::test_runs_of_real_numbers_are_compared_by_their_error": (
        "regression",
    ),
    "engine/test_engine_parameters.py::test_they_go_on_after_a_kill_in_a_trial_as_without": ("True-3",),
    "engine/test_engine_records.py::test_a_trial_goes_on_after_a_kill_as_without": (
        "parked-False",
        "a block more-True",
    ),
    "engine/test_engine_resume.py::test_a_resumed_run_ends_bit_equal": ("10",),
    "engine/test_engine_resume.py::test_a_run_resumed_within_a_trial_ends_bit_equal": (
        "rejected-20-1",
        "accepted-20-1",
    ),
    "engine/test_engine_safety.py::test_a_rejected_cut_leaves_no_trace": ("transport",),
    "engine/test_engine_teaching.py::test_a_model_is_looked_at_without_the_teacher_that_it_names": (),
    "engine/test_engine_teaching.py::test_a_run_that_is_not_done_teaches_by_name_alone": (),
    "engine/test_engine_threads.py::test_a_resumed_run_takes_what_it_had": ("2-False",),
    "engine/test_engine_weight_decay.py::test_a_run_begun_with_other_groups_goes_on_with_them": ("10-lru",),
    "exchange/test_exchange_files.py::test_reading_needs_no_transformers": (),
    "golden/test_golden_digits.py::test_losses_and_orders_are_the_golden_ones_in_every_form": ("recurrent",),
    "layers/test_layer_attention.py::test_any_units_may_leave_at_once": (
        "plain",
        "grouped]",
    ),
    "layers/test_layer_convolution.py::test_any_channels_may_leave_at_once": (
        "images",
        "depthwise-True",
    ),
    "layers/test_layer_frozen.py::test_gradients_of_what_is_not_frozen_are_the_same": (
        "lru",
        "mamba2",
    ),
    "lti/test_lti_balanced_truncation.py::test_every_order_is_stable_biorthogonal_and_within_the_bound": (),
    "methods/test_calibration.py::test_memory_grows_neither_with_the_batch_nor_with_their_number": ("lru",),
    "ops/test_ops_batch_norm.py::test_it_compiles_in_one_piece": (),
    "ops/test_ops_compiled_kernels.py::test_kernels_of_the_cache_give_the_bits_of_those_just_compiled": (),
    "ops/test_ops_gated_linear.py::test_compiles_to_one_graph": (),
    "ops/test_ops_needs_grad.py::test_each_gradient_is_the_same_whatever_else_is_asked_for": (
        "recurrence",
        "scan",
        "plain scan",
        "selective]",
        "selective, gated]",
        "selective, gated, orders",
        "selective, float64",
        "causal",
        "convolution",
        "duality",
        "attention",
        "decayed",
        "gate",
        "batch norm",
    ),
    "ops/test_ops_selective.py::test_operators_keep_the_rules_of_custom_operators": (
        "False-all-dtype1",
        "True-kept-dtype0",
    ),
    "ops/test_ops_selective_triton.py::test_interpreted_kernels_match_the_definition": (),
    "ops/test_ops_selective_triton.py::test_kernels_compile_for_devices_that_are_not_here": (),
    "ops/test_ops_selective_triton.py::test_triton_is_not_needed_for_importing_the_operator": (),
    "ops/test_ops_ssd.py::test_compiles_to_one_graph": (),
    "ops/test_ops_triton.py::test_interpreted_kernels_match_the_definition": (),
    "ops/test_ops_triton.py::test_kernels_compile_for_devices_that_are_not_here": (),
    "ops/test_ops_triton.py::test_triton_is_not_needed_for_importing_the_operator": (),
    "reliability/test_reliability_checkpoints.py::test_a_damaged_checkpoint_is_passed_over": ("flipped",),
    "reliability/test_reliability_container.py::test_analyze": (),
    "reliability/test_reliability_container.py::test_bench": (),
    "reliability/test_reliability_container.py::test_compress_export_and_compare": (),
    "reliability/test_reliability_container.py::test_doctor_says_where_caches_are_and_why": (),
    "reliability/test_reliability_container.py::test_resume": (),
    "reliability/test_reliability_container.py::test_train": (),
    "reliability/test_reliability_data.py::test_other_data_are_refused": (
        "True-more_rows",
        "False-new_class",
        "False-other_value",
    ),
    "reliability/test_reliability_failing_process.py::test_all_end_soon_and_one_message_is_read": (
        "1 of 2: bad input in load_data",
        "1 of 2: memory in training_step1",
        "2 of 3: lost in",
    ),
    "reliability/test_reliability_failing_process.py::"
    "test_the_loss_of_a_process_is_told_before_torchrun_ends_the_others": (),
    "reliability/test_reliability_failing_process.py::test_torchrun_ends_soon_when_one_process_fails": (),
    "reliability/test_reliability_failures.py::"
    "test_a_disk_that_is_full_at_any_write_costs_nothing_that_was_written": (),
    "reliability/test_reliability_failures.py::"
    "test_a_gradient_that_is_not_finite_ends_the_run_and_spoils_no_checkpoint": (
        "5-nan",
        "1-1e+30",
    ),
    "reliability/test_reliability_failures.py::test_a_limit_on_memory": (),
    "reliability/test_reliability_failures.py::test_a_run_that_went_back_is_resumed_exactly": (
        "Trainer-_update-4-True",
        "Saving-save-2-False",
    ),
    "reliability/test_reliability_hooks.py::test_several_processes_park_as_one_does": (),
    "reliability/test_reliability_hooks.py::"
    "test_the_loss_of_a_process_between_a_cut_and_its_checkpoint_changes_nothing": (),
    "reliability/test_reliability_hostile_checkpoints.py::test_damaged_checkpoints": (
        "bits flipped",
        "archive forged",
        "content retyped",
    ),
    "reliability/test_reliability_hostile_recipes.py::test_mutated_recipes": (),
    "reliability/test_reliability_kills.py::test_killed_and_resumed_runs_end_bit_identical": (),
    "reliability/test_reliability_kills.py::test_what_differs_is_noticed": (),
    "reliability/test_reliability_models.py::test_two_processes_do_what_one_does_and_go_on_bit_equal": (
        "decoder: hybrid-ddp in parts",
        "resnet-fsdp",
    ),
    "reliability/test_reliability_processes.py::test_a_signal_to_one_process_stops_all_and_they_go_on_exactly": (),
    "reliability/test_reliability_processes.py::test_all_processes_must_have_the_same_data": (),
    "reliability/test_reliability_processes.py::test_bad_input_is_told_once": (),
    "reliability/test_reliability_processes.py::test_processes_learn_from_one_teacher": (),
    "reliability/test_reliability_processes.py::test_processes_share_a_budget": ("{'flops': '0.7x'}",),
    "reliability/test_reliability_processes.py::test_processes_with_a_part_of_the_model_each_do_what_one_does": (),
    "reliability/test_reliability_processes.py::test_torchrun_goes_on_when_a_process_is_lost": (),
    "reliability/test_reliability_processes.py::test_two_processes_do_what_one_does": ("lru",),
    "reliability/test_reliability_processes.py::test_two_processes_do_what_one_does_on_data_in_files": (),
    "reliability/test_reliability_sent.py::test_a_checkpoint_goes_to_the_others_as_tensors": (),
    "reliability/test_reliability_sharded.py::test_all_processes_agree": (),
    "reliability/test_reliability_signals.py::test_a_run_is_resumed_by_any_of_its_names": (),
    "reliability/test_reliability_signals.py::test_a_stopped_run_goes_on_exactly": (
        "strict-Trainer-_update-13",
        "strict-compressm_cli.engine.validation-evaluate-1",
        "strict-Checkpoint-save-1",
        "strict-compressm_cli.structure.surgery-apply_plan-1",
    ),
    "reliability/test_reliability_statistics.py::test_all_processes_have_the_same_statistics": ("(2,",),
    "reliability/test_reliability_statistics.py::test_training_is_that_of_one_process": (),
    "reliability/test_reliability_trackers.py::test_a_tracker_that_fails_is_dropped_with_one_warning": (
        "('start', 1)",
        "('scalars', 9)",
        "('finish', 1)",
    ),
    "reliability/test_reliability_versions.py::test_of_processes_that_auto_resume_at_once_one_goes_on": (),
    "reliability/test_reliability_versions.py::test_processes_that_start_at_once_get_distinct_versions": (),
    "render/test_render_drawing.py::test_figures_are_the_same_whatever_the_users_settings": (),
    "render/test_render_drawing.py::test_nothing_imports_matplotlib_before_it_draws": (),
    "render/test_render_html.py::test_several_models_and_checkpoints": (),
    "reports/test_reports_comparison.py::test_any_entry_of_a_record_may_be_damaged": ("run.json",),
    "reports/test_reports_same_orders.py::test_orders_at_thresholds_are_those_that_compress_comes_to": (
        "lru-empirical",
        "mamba-empirical",
    ),
    "reports/test_reports_same_orders.py::test_other_targets_go_by_the_same_spectra": ("mamba2",),
    "reports/test_reports_spectrum.py::test_other_layers": ("s5",),
    "sweeps/test_sweep_command.py::test_trainings_of_a_killed_sweep_save_and_go_on": (),
    "test_checkpoint.py::test_a_cut_model_gives_identical_outputs_in_a_fresh_process": (),
    "test_compressor.py::test_the_interface_is_imported_when_it_is_used": (),
    "test_plugins.py::test_a_fresh_process_of_the_conformance_tests_has_a_plug_in_that_is_not_installed": (),
    "test_plugins.py::test_as_a_module_of_python_nothing_is_imported_from_the_current_folder": (),
    "test_readme.py::test_the_commands_in_the_readme_work": (),
    "test_your_data_doc.py::test_a_section_works": (
        "Numbers, a series a row",
        "Texts in folders",
        "Recordings",
        "Images",
        "Steps that follow",
        "Numbers in lists",
    ),
}
"""Test -> how the names of its everyday cases begin; of a test without parameters there are none."""


def choose(items: list[pytest.Item], cases: str) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Those of the cases that are asked for, and the others."""
    chosen: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        fits = cases == "all" or (cases == "exhaustive") == _is_exhaustive(item.nodeid)
        (chosen if fits else left).append(item)
    return chosen, left


def _is_exhaustive(node: str) -> bool:
    name, _, parameters = node.removeprefix("tests/").partition("[")
    kept = EXHAUSTIVE.get(name)
    return kept is not None and not parameters.startswith(tuple(kept) or ("]",))


def without_a_test(nodes: Iterable[str]) -> list[str]:
    """What the table names and none of these nodes is, of their files."""
    found = [node.removeprefix("tests/") for node in nodes]
    files = {node.partition("::")[0] for node in found}
    wanted = [
        f"{name}[{case}" if case else name
        for name, kept in EXHAUSTIVE.items()
        if name.partition("::")[0] in files
        for case in (kept or [""])
    ]
    return [name for name in wanted if not any(node.startswith(name) for node in found)]
