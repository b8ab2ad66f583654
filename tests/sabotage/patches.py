"""Small faults that nobody would see in a result, and the tests that must fail with each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """One fault: a text that is in a source file exactly once, and what takes its place."""

    file: str
    """Below src/c2fvl."""
    old: str
    new: str
    tests: str
    """Names of tests below tests/, separated by spaces."""

    @property
    def package(self) -> str:
        """Return the package of the file."""
        return self.file.partition("/")[0]


_LOOP = "training/test_loop.py::"
_PREDICTOR = "inference/test_predictor.py::"
_OUTPUTS = "inference/outputs/"

PATCHES = (
    # files
    Patch("files/images.py", "np.dtype(np.uint16): 65535}", "np.dtype(np.uint16): 65280}",
          "files/test_images.py::test_lossless_images_are_read_exactly"),
    Patch("files/images.py", "lesion = grey == highest", "lesion = grey != highest",
          "files/test_images.py::test_binary_masks_in_every_dress"),
    Patch("files/images.py", "return (_MM_PER_INCH / down, _MM_PER_INCH / across)",
          "return (_MM_PER_INCH / across, _MM_PER_INCH / down)",
          "evaluation/test_summary.py::test_distances_are_those_that_a_file_tells"),
    Patch("files/images.py", "if header.orientation in (0, 1):", "if header.orientation in (0, 1, 6):",
          "files/test_images.py::test_an_orientation_tag_is_not_applied_and_is_named"),
    Patch("files/storage.py", "if len(data) != size or checksum(data) != expected:", "if len(data) != size:",
          "files/test_storage.py::test_damage_to_a_folder_is_seen"),
    Patch("files/storage.py", "        if durable:\n            os.fsync(file.fileno())\n", "",
          "files/test_storage.py::test_power_loss_leaves_a_file_old_or_new"),
    Patch("files/partial.py", "        except BlockingIOError:\n            return False\n",
          "        except BlockingIOError:\n            return True\n", "files/test_partial.py"),
    # reports
    Patch("reports/zones.py", 'OTHER_HAND = {"left": "right", "right": "left"}',
          'OTHER_HAND = {"left": "left", "right": "right"}', "reports/test_zones.py"),
    Patch("reports/zones.py", 'return f"image {hand} (patient\'s {OTHER_HAND[hand]})"',
          'return f"image {hand} (patient\'s {hand})"', "reports/test_zones.py"),
    Patch("reports/report.py", "return self if orientation == self.orientation else replace(self.mirrored(), "
          "orientation=orientation)", "return replace(self, orientation=orientation)",
          "reports/test_report.py::test_mirroring_and_orientations"),
    Patch("reports/report.py", "zones = frozenset(map(mirrored, self.zones))", "zones = frozenset(self.zones)",
          "reports/test_report.py::test_mirroring_and_orientations"),
    Patch("reports/report.py", 'return "image" if parsed.has_attributes or not parsed.text else "patient"',
          'return "image"', "reports/test_report.py::test_captions_mean_the_image_s_left_and_free_text_the_patient_s"),
    Patch("reports/from_mask.py", 'columns = slice(0, width // 2) if hand_of(zone) == "left"',
          'columns = slice(0, width // 2) if hand_of(zone) == "right"',
          "reports/test_from_mask.py::test_areas_by_zone"),
    Patch("reports/from_mask.py", "connectivity=8)", "connectivity=4)",
          "reports/test_from_mask.py::test_areas_that_touch_at_a_corner_are_one"),
    Patch("reports/findings.py", "        elif is_free or is_listed:\n            row[index] = 0\n", "",
          "reports/test_free_text.py::test_findings_of_captions_and_free_text"),
    # data
    Patch("data/transforms.py", "_move(augmentation, sample.mask, smooth=False)", "sample.mask",
          "data/test_transforms.py"),
    Patch("data/transforms.py", "((width - 1) / 2, (height - 1) / 2), augmentation.degrees",
          "((width - 1) / 2, (height - 1) / 2), -augmentation.degrees",
          "data/test_transforms.py::test_rotation_goes_counter_clockwise_about_the_centre"),
    Patch("data/transforms.py", 'config.channel_order == "bgr"', 'config.channel_order == "rgb"',
          "data/test_transforms.py::test_channels_are_in_the_order_of_the_settings"),
    Patch("data/dataset.py", "self._mirrored[index] = report.mirrored()", "self._mirrored[index] = report",
          "data/test_transforms.py::test_a_lesion_on_the_left_with_its_report_goes_to_the_right"),
    Patch("data/dataset.py", "if generator.random() >= trust:", "if generator.random() < trust:",
          "models/test_filmfirst.py::test_doubted_reports_are_wrong_as_often_as_their_trust_says"),
    Patch("data/perturbations.py", "np.roll(order, 1)", "np.roll(order, 0)",
          "reports/test_perturbations.py::test_no_case_keeps_its_own_report_when_shuffled"),
    Patch("data/batches.py", "return stacked.transpose(0, 3, 1, 2)", "return stacked.transpose(0, 3, 2, 1)",
          "data/test_image_cache.py::test_grey_and_colour_images_go_into_one_batch"),
    Patch("data/batches.py", "[seed, _ORDER_STREAM, epoch]", "[seed, _ORDER_STREAM, 0]",
          f"{_LOOP}test_epochs_are_shuffled_by_seed_and_epoch"),
    Patch("data/batch_transforms.py", "np.array([[-1, 0, last], [0, 1, 0], [0, 0, 1]])",
          "np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])", "data/test_on_device.py::test_turns_and_flips_are_exact"),
    Patch("data/scan.py", "{case.image.stat().st_size} {case.report} {_mask", "{case.image.stat().st_size} {_mask",
          "data/test_scan.py::test_the_fingerprint_changes_with_images_reports_and_masks"),
    Patch("data/image_cache.py", 'about["crc32"] != _checksum(arrays, remarks)', "not about",
          "data/test_image_cache.py::test_a_damaged_entry_is_made_again"),
    # metrics
    Patch("metrics/overlap.py", "return 2 * counts.intersection / size if size else 1.0",
          "return 2 * counts.intersection / size if size else 0.0",
          "metrics/test_overlap.py::test_the_table_of_empty_masks"),
    Patch("metrics/overlap.py", "return self.prediction + self.target - self.intersection",
          "return self.prediction + self.target", "metrics/test_overlap.py::test_equals_scikit_learn"),
    Patch("metrics/intervals.py", "self.members = _members(groups)", "self.members = _members([None] * len(groups))",
          "metrics/test_intervals.py::test_images_of_one_patient_count_as_one"),
    Patch("metrics/intervals.py", "[(1 - LEVEL) / 2, (1 + LEVEL) / 2]", "[1 - LEVEL, LEVEL]",
          "metrics/test_intervals.py::test_the_interval_of_a_mean_is_that_of_all_possible_draws_of_groups"),
    Patch("metrics/intervals.py", "(len(probabilities) - rank) *", "len(probabilities) *",
          "metrics/test_intervals.py::test_holm_by_hand"),
    Patch("metrics/surfaces.py", "np.argwhere(others) * scale", "np.argwhere(others) * scale[::-1]",
          "metrics/test_case_scores.py::test_distances_equal_all_pairs"),
    Patch("metrics/temperature.py", "/ self.temperature + self.offset\n            return",
          "* self.temperature + self.offset\n            return",
          "metrics/test_calibration.py::test_scaling_divides_logits_and_adds_the_offset"),
    Patch("metrics/lesions.py", "np.where(self.iou >= minimum, 1 + self", "np.where(self.iou >= 0, 1 + self",
          "metrics/test_case_scores.py::test_pairs_below_the_minimum_take_no_partner_away"),
    # models
    Patch("models/layers/efficient.py", "        image = (image - self.mean) / self.std\n", "",
          "models/test_own_recordings.py"),
    Patch("models/c2fvl.py", "return attributes.repeat(1, self.repeats)",
          "return attributes.repeat_interleave(self.repeats, 1)",
          "models/test_parity.py::test_c2fvl_gives_the_published_probabilities_and_side_maps"),
    Patch("models/filmfirst.py", "weights = log_odds.sigmoid() * known", "weights = log_odds.sigmoid()",
          "models/test_filmfirst.py::test_what_is_not_told_is_as_the_image_shows_it"),
    Patch("models/filmfirst.py", "return torch.stack([x, y, x * x", "return torch.stack([y, x, x * x",
          "models/test_own_recordings.py::test_filmfirst_gives_the_recorded_outputs"),
    Patch("models/inference_model.py", "norm.running_var, norm.eps,", "norm.running_var, 1e-2,",
          "models/test_inference_model.py::test_same_output"),
    # checkpoints
    Patch("checkpoints/official/convert.py", "torch.cat(parts)", "torch.cat(parts[::-1])",
          "models/test_parity.py::test_c2fvl_gives_the_published_probabilities_and_side_maps "
          "models/test_parity.py::test_published_output"),
    Patch("checkpoints/packing.py", "half = value.to(torch.float16)", "half = value.to(torch.bfloat16)",
          "checkpoints/test_folders.py::test_a_packed_model_is_half_as_large_and_predicts_the_same"),
    Patch("checkpoints/model_files.py", 'return "old" if before == found else None', 'return "old" if before else None',
          "checkpoints/test_model_files.py"),
    # inference
    Patch("inference/masks.py", "(probability >= threshold)", "(probability > threshold)",
          "inference/test_masks.py"),
    Patch("inference/predictor.py", '                if line.startswith(_DOUBTS):\n                    '
          'self._say_once(f"of the report {report.text!r}, {line}")\n            return report.in_orientation("image")',
          '                if line.startswith(_DOUBTS):\n                    '
          'self._say_once(f"of the report {report.text!r}, {line}")\n            return report',
          "reports/test_predicted_findings.py::test_a_report_in_patient_orientation_is_that_of_the_other_side"),
    Patch("inference/to_folder.py", "orientation=request.orientation or orientation)", "orientation=orientation)",
          f"{_PREDICTOR}test_the_column_orientation_of_a_table_counts"),
    Patch("inference/cases.py", "labels, target = prediction.labels, mask\n",
          'labels, target = to_labels(probability), resize_mask(mask, size, rule="exact")\n',
          "evaluation/test_evaluate.py::test_the_original_grid_is_scored_on_resized_probabilities"),
    Patch("inference/torch_engine.py", "return fractions[:, 1] if logits.shape[1] == 2",
          "return fractions[:, 0] if logits.shape[1] == 2",
          "data/test_classes.py::test_two_logits_are_background_and_lesion"),
    # clinical files
    Patch("inference/outputs/result_info.py", "frozenset(mirrored(zone) for zone,", "frozenset(zone for zone,",
          f"{_OUTPUTS}test_sides.py::test_a_lesion_of_the_patients_right_is_coded_right_in_every_file"),
    Patch("inference/outputs/result_info.py", '"R" if picture.mirrored else "L"', '"L" if picture.mirrored else "R"',
          f"{_OUTPUTS}test_sides.py::test_an_orientation_that_is_assumed_or_given_follows_the_picture"),
    Patch("inference/outputs/sides.py", "return orientation is not None and", "return orientation is None or",
          f"{_OUTPUTS}test_seg.py::test_an_assumed_orientation_is_said_and_no_side_is_coded"),
    Patch("inference/outputs/secondary_capture.py", '_OPPOSITE = {"L": "R", "R": "L"}',
          '_OPPOSITE = {"L": "L", "R": "R"}',
          f"{_OUTPUTS}test_secondary_capture.py::test_letters_are_where_the_patients_right_and_left_are"),
    Patch("inference/outputs/seg.py", '        header.SliceThickness = "1"\n', "",
          f"{_OUTPUTS}test_seg.py::test_a_known_spacing_of_a_film_goes_with_a_thickness"),
    Patch("inference/outputs/source.py", '    "Modality", "SeriesNumber",',
          '    "PatientComments", "Modality", "SeriesNumber",',
          f"{_OUTPUTS}test_seg.py::test_free_text_and_private_attributes_stay_behind"),
    Patch("inference/outputs/source.py", "for name in kept if deidentified else (*kept, *_IDENTIFYING):",
          "for name in (*kept, *_IDENTIFYING):",
          f"{_OUTPUTS}test_seg.py::test_a_deidentified_segmentation_holds_no_identifier_and_new_uids"),
    Patch("inference/outputs/structured_report.py", "if keep_text and given_report.strip():",
          "if given_report.strip():", f"{_OUTPUTS}test_reports.py::test_the_users_report_is_kept_only_when_wanted"),
    Patch("inference/outputs/nifti_nrrd.py", "return Grid(_LPS @ matrix,", "return Grid(matrix,",
          f"{_OUTPUTS}test_nifti_nrrd.py::test_each_pixel_of_a_series_lies_where_dicom_says"),
    Patch("inference/outputs/of_prediction.py", "zone_areas(_lesion(prediction))", "prediction.areas",
          f"{_OUTPUTS}test_of_prediction.py::test_zones_are_those_of_the_lesion_and_not_of_the_lungs"),
    # training
    Patch("training/random_state.py", "np.asarray(keys, np.uint32), position,", "np.asarray(keys, np.uint32), 0,",
          f"{_LOOP}test_generators_are_restored_to_what_they_were"),
    Patch("training/ema.py", "1 - min(self.decay, (1 + steps)", "min(self.decay, (1 + steps)",
          "training/test_ema.py"),
    Patch("training/saving.py", "    restore_optimizer(run.optimizer, state.optimizer)\n", "",
          f"{_LOOP}test_all_of_a_run_is_restored_to_what_was_saved"),
    Patch("training/steps.py", "first=run.progress.batches,", "first=0,",
          f"{_LOOP}test_all_of_a_run_is_restored_to_what_was_saved"),
    Patch("training/losses.py", "(probability * target).sum(1)", "(probability * target).sum()",
          "training/test_losses.py::test_dice_loss_is_the_published_formula"),
    Patch("training/loop.py", "dice <= progress.best_dice and", "dice >= progress.best_dice and",
          f"{_LOOP}test_early_stop_and_best_from_epoch"),
    Patch("training/signals.py", "            self._restore()\n            signal.raise_signal(number)\n",
          "            pass\n", "cli/test_exit_status.py::test_a_second_signal_is_that_of_whoever_called"),
    # evaluation
    Patch("evaluation/statistics.py", "bootstrap.mean_of_ratios(2 * inside, predicted + true)",
          "bootstrap.mean_of_ratios(inside, predicted + true)",
          "evaluation/test_summary.py::test_pooled_scores_by_hand"),
    Patch("evaluation/audit.py", 'scores["right"] - scores["none"]', 'scores["none"] - scores["right"]',
          "evaluation/test_audit.py::test_the_headline_by_hand"),
    Patch("evaluation/mean_masks.py", "constant = masks.mean(axis=0, dtype=np.float64)",
          "constant = masks[:1].mean(axis=0, dtype=np.float64)",
          "evaluation/test_mean_masks.py::test_means_and_cuts_are_those_of_numpy"),
    Patch("evaluation/compare/paired.py", "unequal = tables[0].counts[:, 2] != table.counts[:, 2]",
          "unequal = tables[0].counts[:, 2] < 0",
          "evaluation/test_compare_seeds.py::test_other_masks_or_groups_of_the_same_images_are_named"),
    # cli
    Patch("cli/exit_status.py", "return 128 + signal", "return 127 + signal",
          "cli/test_exit_status.py::test_statuses_are_those_of_a_shell"),
    Patch("cli/exit_status.py", "WRONG_CALL = 2", "WRONG_CALL = 0",
          "cli/test_exit_status.py::test_statuses_are_those_of_a_shell"),
    Patch("cli/data.py", "return 1 if found.errors else 0", "return 0",
          "cli/test_commands.py::test_check_exits_with_one_where_something_is_wrong"),
    Patch("cli/inference.py", "return 1 if table.num_failed else 0", "return 0",
          "cli/test_commands.py::test_predict_says_of_each_image_what_became_of_it"),
    Patch("cli/inference.py", "{name}: {100 * area / pixels:.1f} %", "{name}: {area / pixels:.1f} %",
          "cli/test_commands.py::test_predict_says_of_each_image_what_became_of_it"),
)  # fmt: skip
