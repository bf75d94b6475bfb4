"""What users of other engines look for in this one: each feature has a test that shows it."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

SHOWN_BY = {
    "console command": "test_verbs.py::test_the_console_script_is_installed_and_runs_a_verb",
    "namespaced API": "test_api.py::"
    "test_a_run_is_trained_with_fields_over_its_config_and_opened_again",
    "array in, mask out": "test_api.py::test_an_array_gives_the_mask_that_the_command_writes",
    "docs site": "test_docs_site.py::test_every_page_is_there",
    "notebook": "tools/test_notebook.py::test_every_cell_ran_in_its_order_and_none_failed",
    "log file": "test_run_log.py::"
    "test_a_run_leaves_what_was_shown_with_times_command_line_and_versions",
    "curves, CSV": "training/test_curves.py::test_a_run_leaves_every_epoch_of_every_fold",
    "confusion picture": "report/test_page.py::test_a_page_has_all_parts",
    "overlays of predictions": "test_predict_options.py::"
    "test_what_is_asked_for_is_written_and_agrees",
    "TensorBoard": "training/test_tracking.py::test_tensorboard_reads_what_the_metrics_say",
    "W&B": "training/test_tracking.py::test_wandb_keeps_a_run_of_every_epoch_offline",
    "MLflow": "training/test_tracking.py::test_mlflow_keeps_a_run_of_every_epoch_offline",
    "HTML report": "report/test_page.py::test_a_page_holds_all_that_it_shows_and_runs_nothing",
    "evaluate a labelled folder": "test_evaluate.py::"
    "test_figures_are_those_of_the_masks_and_labels",
    "save probabilities": "test_predict_options.py::test_what_is_asked_for_is_written_and_agrees",
    "sliding window / tiles": "views/test_tiles.py::"
    "test_tiles_disagree_with_the_whole_in_few_pixels_and_no_more_at_seams",
    "calibration (NLL, ECE)": "selection/test_calibration.py::"
    "test_figures_are_those_of_their_definition",
    "dry run": "test_dry_run.py::test_sizes_and_measured_times_are_told_and_nothing_is_written",
    "printed config": "test_named_configs.py::"
    "test_names_paths_and_fields_say_the_same_in_any_place",
    "ONNX": "export/test_command.py::"
    "test_the_example_needs_its_runtime_alone_and_gives_the_engines_masks",
    "OpenVINO / TensorRT": "export/test_command.py::"
    "test_the_example_needs_its_runtime_alone_and_gives_the_engines_masks",
    "model card, Hub layout": "export/test_command.py::test_the_card_tells_what_was_measured",
    "importers": "bring/test_nyuv2_file.py::test_every_pixel_is_that_of_the_file",
    "planning from the data": "plan/test_plan.py::"
    "test_a_plan_trains_as_it_is_and_says_why_of_every_choice",
    "own split file": "data/test_split_file.py::test_every_form_says_the_same",
    "fine-tune to other classes": "test_fine_tune.py::"
    "test_classes_of_the_same_name_keep_their_rows_and_the_rest_is_new",
    "plug-in loss, model": "test_plug_ins.py::"
    "test_a_decoder_and_a_loss_of_a_package_train_resume_and_predict",
    "rates by part, frozen parts": "training/test_parts.py::"
    "test_a_frozen_encoder_keeps_every_bit_and_the_rest_is_trained",
    "pseudo-labels of a teacher": "training/test_teacher.py::"
    "test_a_run_learns_from_its_teacher_up_to_its_report",
    "early stopping": "test_patience.py::test_a_fold_ends_with_its_patience_and_says_so_once",
    "more epochs for a finished run": "test_extend.py::"
    "test_its_folds_go_on_by_the_schedule_of_all_epochs",
    "ensemble on new images": "test_blend.py::"
    "test_a_blend_predicts_new_images_of_mixed_sizes_by_its_weights",
}
"""By the name that a comparison of engines has for it: file and function."""


@pytest.mark.parametrize("feature", SHOWN_BY)
def test_the_feature_has_a_test(feature: str) -> None:
    file, _, name = SHOWN_BY[feature].partition("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert name in found, f"tests/{file} has no {name}"
