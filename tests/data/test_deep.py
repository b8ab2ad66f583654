"""What a data set hides is found: images met twice, faults of captions, whose left they mean; splits by group."""

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.progress import Steps

from c2fvl.cli.main import main
from c2fvl.data.cases import SPLITS, Case
from c2fvl.data.check import deep as deep_check
from c2fvl.data.check import near_duplicates
from c2fvl.data.check.check import check
from c2fvl.data.check.deep import CheckedCase, DeepOptions, find_orientation
from c2fvl.data.check.near_duplicates import find_duplicates, sketch
from c2fvl.data.check.new_splits import Member, assign, bundles
from c2fvl.data.phantom.draw import draw_case
from c2fvl.data.scan import find_splits, scan
from c2fvl.reports.caption_faults import find_faults
from c2fvl.reports.caption_tables import write_table
from c2fvl.reports.report import Report, parse_report

SLOT = "Unilateral pulmonary infection, one infected areas, left lung and lower right lung."
NUM_IMAGES = 24


@pytest.fixture(scope="module")
def cases():
    """Phantom images, each of another patient."""
    drawn, groups = [], set()
    for index in range(2 * NUM_IMAGES):
        case = draw_case(5, index, size=128)
        if case.group not in groups and len(drawn) < NUM_IMAGES:
            groups.add(case.group)
            drawn.append(case)
    assert len(drawn) == NUM_IMAGES
    return drawn


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_split(root, split, images, *, report=lambda report: report):
    """Write (name, image, mask, report) of one split; without masks or captions where these are None."""
    folder = root / f"{split}_Folder"
    for name, image, mask, _ in images:
        save(folder / "img" / f"{name}.png", image)
        if mask is not None:
            save(folder / "labelcol" / f"{name}.png", mask * 255)
    rows = [(f"{name}.png", report(said)) for name, _, _, said in images if said is not None]
    if rows:
        write_table(folder / f"{split}_text.csv", rows)


def listed(cases):
    return [(f"{case.group}_{case.name}", case.image, case.mask, case.report) for case in cases]


@pytest.fixture
def root(tmp_path, cases):
    write_split(tmp_path / "set", "Train", listed(cases[:16]))
    write_split(tmp_path / "set", "Val", listed(cases[16:]))
    return tmp_path / "set"


def affine(image, *, angle=0.0, zoom=1.0):
    height, width = image.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, zoom)
    return cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)


CHANGES = {
    "darker": lambda film: (0.4 * film + 12).astype(np.uint8),
    "gamma": lambda film: np.rint(255 * (film / 255) ** 0.7).astype(np.uint8),
    "sixteen bits": lambda film: film.astype(np.uint16) * 200,
    "colour": lambda film: np.stack([film] * 3, axis=2),
    "jpeg": lambda film: cv2.imdecode(cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 0),
    "half the size": lambda film: cv2.resize(film, (64, 64), interpolation=cv2.INTER_AREA),
    "turned": lambda film: affine(film, angle=3),
    "cropped": lambda film: cv2.resize(film[5:-4, 3:-5], (128, 128)),
    "mirrored": lambda film: film[:, ::-1],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(cases, change):
    images = [case.image for case in cases] + [CHANGES[change](cases[7].image)]
    search = find_duplicates(np.stack([sketch(film) for film in images]))
    assert [(pair.first, pair.second, pair.mirrored) for pair in search.pairs] == [(7, 24, change == "mirrored")]
    assert search.pairs[0].correlation > 0.93
    assert search.num_candidates >= 1


def test_every_image_finds_its_own_copy(cases):
    images = [case.image for case in cases]
    images += [affine(CHANGES["gamma"](film), angle=1.5) for film in images]
    progress = Steps()
    search = find_duplicates(np.stack([sketch(film) for film in images]), workers=2, progress=progress)
    assert {(pair.first, pair.second) for pair in search.pairs} == {(n, n + NUM_IMAGES) for n in range(NUM_IMAGES)}
    assert progress.steps[-1] == (search.num_candidates, search.num_candidates)
    ordered = [pair.correlation for pair in search.pairs]
    assert ordered == sorted(ordered, reverse=True)


def test_the_sketch_does_not_depend_on_the_scale_of_values(cases):
    film = cases[0].image
    np.testing.assert_allclose(sketch(film), sketch(film.astype(np.float32) / 255), atol=1)
    assert not sketch(np.full((40, 50), 7, np.uint8)).any()


def test_where_pictures_are_too_many_hashes_must_be_more_alike(cases, monkeypatch):
    sketches = np.stack([sketch(case.image) for case in cases] + [sketch(cases[3].image)])
    whole = find_duplicates(sketches)
    assert whole.max_distance == near_duplicates.MAX_DISTANCE
    monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", 2)
    less = find_duplicates(sketches)
    assert less.max_distance < whole.max_distance
    assert less.num_candidates <= 2 < whole.num_candidates
    assert [(pair.first, pair.second) for pair in less.pairs] == [(3, 24)]


@pytest.mark.parametrize("count", [0, 1])
def test_no_pairs_among_too_few_or_plain_pictures(count, cases):
    assert find_duplicates(np.zeros((count, 64, 64), np.int8)).pairs == ()
    plain = np.zeros((3, 64, 64), np.int8)
    assert find_duplicates(np.concatenate([plain, sketch(cases[0].image)[None]])).num_candidates == 0


def test_sound_data_hides_nothing(root):
    progress = Steps()
    report = check(root, deep=DeepOptions(), progress=progress)
    assert report.problems == ()
    assert report.deep.pairs == ()
    assert report.deep.faults == ()
    assert report.deep.orientation.verdict == "image"
    assert report.deep.num_images == NUM_IMAGES
    assert report.deep.num_pictures is report.deep.new_splits is None
    (shared,) = report.deep.shared
    assert (shared.first, shared.second, shared.num_shared, shared.num_images) == ("train", "val", 0, 8)
    assert progress.steps[NUM_IMAGES - 1] == (NUM_IMAGES, NUM_IMAGES)
    assert progress.steps[-1] == (report.deep.num_compared, report.deep.num_compared)
    assert progress.stages == ["comparing images with each other"]
    text = "\n".join(report.lines())
    assert "orientation of the captions: image, in 100.0 % of" in text
    assert f"near duplicates among {NUM_IMAGES} images: 0 pairs across splits, 0 within one" in text


def test_without_deep_nothing_changes(root):
    plain = check(root)
    assert plain.deep is None
    assert set(plain.as_dict()) == {"root", "seconds", "splits", "problems"}
    assert not any("deep check" in line for line in plain.lines())


def test_near_duplicates_across_splits_are_errors_with_pictures(root, cases, tmp_path):
    copy, other, twin = (cases[n].image for n in (2, 5, 20))
    save(root / "Val_Folder/img/new_1.png", CHANGES["gamma"](copy))
    save(root / "Val_Folder/img/new_2.png", other[:, ::-1])
    save(root / "Val_Folder/img/new_3.png", CHANGES["cropped"](twin))
    for number, case in ((1, cases[2]), (2, cases[5]), (3, cases[20])):
        save(root / f"Val_Folder/labelcol/new_{number}.png", case.mask * 255)
    (root / "Val_Folder/Val_text.csv").unlink()
    pictures = tmp_path / "pictures"
    report = check(root, deep=DeepOptions(pictures=pictures))
    kinds = Counter((problem.kind, problem.severity) for problem in report.problems)
    assert kinds == {("near duplicate across splits", "error"): 2, ("near duplicate", "warning"): 1}
    told = "\n".join(map(str, report.problems))
    assert f"{cases[2].name}.png: (train) is nearly the same as" in told
    assert "is the mirror image of" in told
    assert "--write-splits" in told
    names = sorted(path.name for path in pictures.iterdir())
    assert names == ["across-001.png", "across-002.png", "within-003.png"]
    drawn = cv2.imread(str(pictures / "across-001.png"))
    assert drawn.shape[0] > 320
    assert drawn.shape[1] > 640
    assert report.deep.num_pictures == 3
    assert "pictures of pairs: 3 written, 0 left out" in "\n".join(report.lines())
    assert [pair["mirrored"] for pair in json.loads(json.dumps(report.as_dict()))["deep"]["pairs"]].count(True) == 1


def test_pictures_beyond_the_limit_are_counted(root, cases, tmp_path, monkeypatch):
    monkeypatch.setattr(deep_check, "MAX_PICTURES", 1)
    for number in (1, 2):
        save(root / f"Val_Folder/img/new_{number}.png", CHANGES["gamma"](cases[number].image))
        save(root / f"Val_Folder/labelcol/new_{number}.png", cases[number].mask * 255)
    (root / "Val_Folder/Val_text.csv").unlink()
    lines = check(root, deep=DeepOptions(pictures=tmp_path / "pictures")).lines()
    assert "  pictures of pairs: 1 written, 1 left out" in lines
    assert len(list((tmp_path / "pictures").iterdir())) == 1


def test_the_same_patient_is_said_and_the_same_pixels_are_reported_once(tmp_path, cases):
    rows = ["image,group,split", "a.png,anna,train", "b.png,anna,val", "c.png,,train", "d.png,,val"]
    (tmp_path / "films.csv").write_text("\n".join(rows), encoding="utf-8")
    save(tmp_path / "a.png", cases[0].image)
    save(tmp_path / "b.png", CHANGES["darker"](cases[0].image))
    save(tmp_path / "c.png", cases[1].image)
    save(tmp_path / "d.png", cases[1].image)
    report = check(tmp_path / "films.csv", deep=DeepOptions())
    kinds = sorted(problem.kind for problem in report.problems)
    assert kinds == ["duplicate across splits", "group across splits", "near duplicate across splits"]
    (pair,) = report.deep.pairs
    assert pair.group == "anna"
    assert "both of anna" in str(pair)
    (shared,) = report.deep.shared
    assert (shared.num_groups, shared.num_shared, shared.num_images, shared.num_images_shared) == (1, 1, 2, 1)


def test_images_of_one_patient_within_a_split_are_only_counted(tmp_path, cases):
    (tmp_path / "films.csv").write_text("image,group\na.png,anna\nb.png,anna\n", encoding="utf-8")
    save(tmp_path / "a.png", cases[0].image)
    save(tmp_path / "b.png", CHANGES["darker"](cases[0].image))
    report = check(tmp_path / "films.csv", deep=DeepOptions())
    assert report.problems == ()
    assert len(report.deep.pairs) == 1
    save(tmp_path / "b.png", CHANGES["mirrored"](cases[0].image))
    (mirrored,) = check(tmp_path / "films.csv", deep=DeepOptions()).problems
    assert (mirrored.kind, mirrored.severity, mirrored.remedy) == (
        "near duplicate",
        "warning",
        "find out which one is mirrored",
    )


def test_captions_in_the_patients_orientation(tmp_path, cases):
    write_split(tmp_path / "set", "Train", listed(cases), report=Report.mirrored)
    out = tmp_path / "set" / "new.csv"
    report = check(tmp_path / "set", deep=DeepOptions(splits=out))
    assert report.deep.orientation.verdict == "patient"
    assert report.deep.orientation.fraction_of_images < 0.1
    assert "orientation of the captions" in {problem.kind for problem in report.errors}
    # read as what they mean, they fit their masks
    repaired = check(out, deep=DeepOptions())
    assert repaired.errors == ()
    assert repaired.deep.orientation.verdict == "image"


def one_film(number, zones, lesion, left):
    report = Report("unilateral", 1, frozenset(zones))
    return CheckedCase(
        "train", Case(str(number), Path(f"{number}.png"), None, report, None), None, None, 1000, lesion, left
    )


def test_the_fractions_behind_the_orientation_by_hand():
    images = [one_film(n, {"lupper"}, 100, 90) for n in range(9)]
    images += [one_film(9, {"rlower", "rmiddle"}, 300, 240)]  # 20 % on the side that it names
    images += [one_film(10, {"lupper", "rupper"}, 50, 0), one_film(11, {"lupper"}, 0, 0)]  # tell nothing
    orientation = find_orientation(images)
    assert (orientation.verdict, orientation.num_images, orientation.fraction_of_images) == ("image", 10, 0.9)
    assert orientation.fraction_of_pixels == (9 * 90 + 60) / 1200
    assert find_orientation(images[1:]).verdict == "undecided"  # too few
    assert find_orientation([one_film(n, {"rupper"}, 10, 10 * (n % 2)) for n in range(20)]).verdict == "undecided"
    assert find_orientation([]).fraction_of_images is None


def test_faults_of_captions_are_counted_by_kind():
    sound = "Bilateral pulmonary infection, two infected areas, upper, middle left lung and all right lung."
    captions = {
        "a": sound,
        "b": SLOT,
        "c": "Unilateral pulmonary infection, two infected areas, lower left lung..",
        "d": "Bilateral pulmonary infection, three infected areas, all lung and all right lung.",
        "e": "Unilateral pulmonary infection, two infected areas, all lower left lung.",
        "f": "Unilateral pulmonary infection, two infected areas, upper left lung and all right lung.",
        "g": "Bilateral pulmonary infection, two infected areas, 3 infected areas, all left lung and lower right lung.",
        "h": "Bilateral pulmonary infection, one infected area, all left lung and all right lung.",
        "i": "An old scar is seen.",
    }
    read = [(name, parse_report(text)) for name, text in captions.items()]
    faults = {fault.kind: fault for fault in find_faults([*read, ("j", None)])}
    assert {kind: fault.count for kind, fault in faults.items()} == {
        "empty cell": 1,
        "not read at all": 1,
        "empty slot, a lung without a zone": 1,
        "one infected areas": 1,
        "doubled full stop": 1,
        "zone without left or right": 1,
        "all beside a single height": 1,
        "bilateral with one area": 1,
        "contradicts itself": 1,
        "read in part": 1,
    }
    assert faults["empty slot, a lung without a zone"].examples == (f"b: {SLOT}",)
    assert faults["empty cell"].examples == ("j",)
    assert faults["read in part"].examples[0].startswith("g: ")


def test_sound_captions_and_free_text_have_no_faults():
    texts = ["The nuclei density in the upper right is high."] * 5
    texts = [*texts, "Unilateral pulmonary infection, one infected area, upper, middle and lower left lung."]
    assert find_faults([(str(n), parse_report(text)) for n, text in enumerate(texts)]) == ()
    assert find_faults([("a", Report.from_attributes([1, 2, 1, 0, 0, 1, 0, 0]))]) == ()


@pytest.mark.parametrize(("nines", "eights", "is_capped"), [(12, 5, True), (12, 12, False), (9, 2, False)])
def test_counts_that_end_in_a_heap(nines, eights, is_capped):
    reports = [Report("bilateral", 9)] * nines + [Report("bilateral", 8)] * eights
    faults = find_faults([(str(n), report) for n, report in enumerate(reports)])
    assert [(fault.kind, fault.count) for fault in faults] == (
        [("counts that end at a limit", nines)] if is_capped else []
    )


def test_the_masks_tell_what_an_empty_slot_means(tmp_path):
    right, both = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    right[20:30, 40:50] = both[20:30, 40:50] = both[5:10, 10:20] = 1
    image = np.random.default_rng(0).integers(0, 256, (4, 40, 60), dtype=np.uint8)
    masks = [right, right, both, right]
    write_split(tmp_path, "Test", [(f"a{n}", image[n], masks[n], None) for n in range(4)])
    texts = [SLOT, SLOT, SLOT, SLOT.replace("left lung and ", "")]
    rows = [f'a{n}.png,"{text}"' for n, text in enumerate(texts)]
    (tmp_path / "Test_Folder/Test_text.csv").write_text("\n".join(["Image,Description", *rows]), encoding="utf-8")
    report = check(tmp_path, deep=DeepOptions())
    assert (report.deep.num_slots, report.deep.num_slots_confirmed) == (3, 2)
    assert "in 2 of 3 masks of captions with an empty slot" in "\n".join(report.lines())


def members(rng, num):
    """Images with groups of very different sizes, some without a group."""
    made = []
    for number in range(num):
        group = None if rng.random() < 0.4 else f"p{int(rng.expovariate(0.15))}"
        lesion = None if rng.random() < 0.1 else max(0.0, rng.gauss(0.1, 0.1))
        left = rng.choice([0.0, 0.5, 1.0]) if lesion else None
        made.append(Member(Case(str(number), Path(f"{number}.png"), None, None, group), lesion, left))
    return made


def bundles_by_hand(images, pairs):
    """Merge sets until nothing changes: slow and plain."""
    sets = [{n} for n in range(len(images))]
    links = [(n, m) for n in range(len(images)) for m in range(n) if images[n].case.group is not None
             and images[n].case.group == images[m].case.group]  # fmt: skip
    for first, second in [*links, *pairs]:
        one = next(bundle for bundle in sets if first in bundle)
        two = next(bundle for bundle in sets if second in bundle)
        if one is not two:
            sets.remove(two)
            one |= two
    return {frozenset(bundle) for bundle in sets}


@pytest.mark.parametrize("seed", range(12))
def test_no_group_and_no_pair_is_in_two_splits(seed):
    rng = random.Random(seed)
    images = members(rng, 80 + 5 * seed)
    pairs = [tuple(rng.sample(range(len(images)), 2)) for _ in range(8)]
    labels = bundles(images, pairs)
    found = defaultdict(set)
    for place, label in enumerate(labels.tolist()):
        found[label].add(place)
    assert set(map(frozenset, found.values())) == bundles_by_hand(images, pairs)
    places = assign(images, labels, (60, 20, 20), seed=seed)
    for bundle in found.values():
        assert len(set(places[list(bundle)])) == 1
    np.testing.assert_array_equal(places, assign(images, labels, (60, 20, 20), seed=seed))


@pytest.mark.parametrize("seed", range(5))
def test_each_split_has_its_share_of_every_kind(seed):
    rng = random.Random(seed)
    images = [
        Member(Case(str(n), Path(f"{n}.png"), None, None, f"p{n // 2}"), 0.2, rng.choice([0.0, 0.5]))
        for n in range(600)
    ]
    places = assign(images, bundles(images, []), (70, 20, 10), seed=seed)
    one_sided = np.array([image.left == 0 for image in images])
    for chosen in (one_sided, ~one_sided):
        counts = np.bincount(places[chosen], minlength=3) / chosen.sum()
        np.testing.assert_allclose(counts, (0.7, 0.2, 0.1), atol=0.02)
    assert (places != assign(images, bundles(images, []), (70, 20, 10), seed=seed + 100)).any()


def test_a_split_without_a_share_stays_empty_and_too_few_bundles_are_refused():
    images = members(random.Random(1), 60)
    labels = bundles(images, [])
    assert set(assign(images, labels, (80, 20, 0))) == {0, 1}
    together = [Member(Case(str(n), Path("a.png"), None, None, "p"), None, None) for n in range(9)]
    with pytest.raises(ValueError, match="1 bundles of images that belong together leave nothing for val and test"):
        assign(together, bundles(together, []), (80, 10, 10))


def test_new_splits_are_read_again(root, cases, capsys):
    save(root / "Val_Folder/img/new.png", CHANGES["gamma"](cases[2].image))
    save(root / "Val_Folder/labelcol/new.png", cases[2].mask * 255)
    table = root / "Val_Folder/Val_text.csv"
    table.write_text(table.read_text() + f'new.png,"{cases[2].report}"\n', encoding="utf-8")
    before = {case.id: case for split in find_splits(root) for case in scan(root, split)}
    out = root / "new.csv"
    call = ["check", str(root), "--deep", "--write-splits", str(out), "--fractions", "50,25,25", "--seed", "3"]
    assert main(call) == 1  # an image is in two splits
    assert "new splits" in capsys.readouterr().out
    after = {split: scan(out, split) for split in SPLITS}
    assert sum(map(len, after.values())) == len(before) == NUM_IMAGES + 1
    assert {split: len(found) for split, found in after.items()} == pytest.approx(
        {"train": 12, "val": 6, "test": 6}, abs=2
    )
    for found in after.values():
        for case in found:
            assert case.report == before[case.id].report
            assert case.image.resolve() == before[case.id].image.resolve()
            assert case.mask.resolve() == before[case.id].mask.resolve()
    where = {case.id: split for split, found in after.items() for case in found}
    assert where["new"] == where[f"{cases[2].group}_{cases[2].name}"]
    assert main(["check", str(out), "--deep"]) == 0
    first = out.read_bytes()
    assert main(call) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    out.unlink()
    main(call)
    assert out.read_bytes() == first


def test_unreadable_images_are_left_out_of_new_splits(root):
    broken = sorted((root / "Train_Folder/img").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:500])
    report = check(root, deep=DeepOptions(splits=root / "new.csv"))
    assert [problem.kind for problem in report.errors] == ["image"]
    assert report.deep.new_splits.num_left_out == 1
    assert sum(report.deep.new_splits.num_images.values()) == NUM_IMAGES - 1
    assert "1 images that cannot be read are left out" in "\n".join(report.lines())
    assert broken.stem not in {case.id for split in SPLITS for case in scan(root / "new.csv", split)}


def test_images_without_masks_or_captions_and_a_single_split(tmp_path, cases):
    write_split(tmp_path / "set", "Test", [(case.name, case.image, None, None) for case in cases[:6]])
    report = check(tmp_path / "set", deep=DeepOptions())
    assert report.problems == ()
    assert report.deep.orientation.verdict == "undecided"
    assert (report.deep.num_captions, report.deep.shared) == (0, ())
    assert "there are no one-sided captions" in "\n".join(report.lines())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--write-splits": "new.txt"}, "the ending .csv"),
        ({"--write-splits": "Train_Folder/new.csv"}, "is not in"),
        ({"--write-splits": "new.csv", "--fractions": "80,10"}, "three numbers for train, val and test"),
        ({"--write-splits": "new.csv", "--fractions": "80,30,-10"}, "sum to 100"),
        ({"--write-splits": "new.csv", "--fractions": "most,10,10"}, "three whole numbers such as 80,10,10"),
        ({"--out": "Train_Folder"}, "is not empty"),
    ],
)
def test_what_cannot_be_written_is_refused_before_an_image_is_read(root, options, message, capsys):
    call = [
        text if key in ("--fractions",) or text.startswith("--") else str(root / text)
        for key, value in options.items()
        for text in (key, value)
    ]
    assert main(["check", str(root), "--deep", *call]) == 2
    assert message in capsys.readouterr().err
    assert not (root / "new.csv").exists()


def test_what_belongs_to_deep_needs_it(root, capsys):
    assert main(["check", str(root), "--out", str(root / "pictures")]) == 2
    assert "add --deep" in capsys.readouterr().err


def test_caption_tables_alone(tmp_path, capsys):
    right = Report("unilateral", 1, frozenset({"rlower"}))
    write_table(tmp_path / "all_train_captions.csv", [(f"Morozov_study_0001_{n}.png", right) for n in range(3)])
    rows = ["Image,Description", f'Morozov_study_0001_9.png,"{SLOT}"', f'Morozov_study_0002_1.png,"{SLOT}"']
    (tmp_path / "all_val_captions.csv").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "Train_patients.csv").write_text("file,patient\na.png,1\n", encoding="utf-8")
    assert main(["check", str(tmp_path), "--deep"]) == 1
    told = capsys.readouterr().out
    assert "train: 3 captions, 0 of them free text" in told
    assert "empty slot, a lung without a zone: 2" in told
    assert "groups of val that train has too: 1 of 2, 1 of 2 images (50.0 %)" in told
    assert "group Morozov_study_0001: has 3 images in train and 1 images in val" in told
    assert main(["check", str(tmp_path / "all_train_captions.csv"), "--deep", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deep"]["num_captions"] == 3
    assert main(["check", str(tmp_path), "--deep", "--write-splits", str(tmp_path / "new.csv")]) == 2
    assert "there are no images to divide" in capsys.readouterr().err
    assert main(["check", str(tmp_path)]) == 2  # as ever without --deep


def test_a_table_that_cannot_be_read_is_a_problem(tmp_path):
    (tmp_path / "captions.xlsx").write_bytes(b"no table")
    report = check(tmp_path / "captions.xlsx", deep=DeepOptions())
    assert [problem.kind for problem in report.errors] == ["table"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        check(tmp_path / "nowhere", deep=DeepOptions())


def test_the_published_captions_of_mosmeddata(real_data):
    report = check(real_data / "mosmeddata-plus", deep=DeepOptions())
    faults = {fault.kind: fault.count for fault in report.deep.faults}
    assert report.deep.num_captions == 2183 + 273
    assert faults["empty slot, a lung without a zone"] == 420  # of 457; the others are in the test part
    assert faults["one infected areas"] == 908
    assert faults["counts that end at a limit"] == 67
    (shared,) = report.deep.shared
    assert (shared.num_shared, shared.num_images_shared) == (1, 24)


def test_the_revised_captions_of_qata(real_data):
    reports = [
        check(real_data / "qata-cov19" / f"{split}_text_revised.xlsx", deep=DeepOptions()) for split in ("Train", "Val")
    ]
    counts = Counter({fault.kind: 0 for report in reports for fault in report.deep.faults})
    for report in reports:
        counts.update({fault.kind: fault.count for fault in report.deep.faults})
    assert counts["empty cell"] == 6
    assert counts["zone without left or right"] == counts["all beside a single height"] == 1
